"""A terminal kept clean while model libraries work: their progress bars and warnings go nowhere."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any


@contextmanager
def quietly() -> Iterator[None]:
    # imported before the redirection: its log handler keeps whatever stderr it first sees for the whole process
    logging: Any = import_module("transformers.utils.logging")

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # some bars are plain tqdm, which knows nothing of the switch above
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
