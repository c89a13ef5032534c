"""An interrupt that comes before a run listens for it is remembered: the exception that it raises can be swallowed by
whatever happens to run then, such as a library that is being loaded."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = False


def came() -> bool:
    return _came


@contextmanager
def remembered() -> Iterator[None]:
    """Raise KeyboardInterrupt as Python itself does, and remember that it was asked for."""
    global _came
    _came = False

    def note(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _came = False
