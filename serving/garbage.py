"""Python's search for reference cycles, made rare while rows pass.

Rows, requests and answers hold none. Yet each allocation brings the next search nearer, and it looks at all that is
alive, every imported module among it: a good part of the time that the rows of a fast engine take.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rarely_searched(*thresholds: int) -> Iterator[None]:
    """As `gc.set_threshold` has them, of one generation or more; 700, 10, 10 are usual."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*thresholds)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
