"""Python's search for reference cycles, made rare while a job runs.

Rows, requests and answers hold none. Yet each allocation brings the next search nearer, and it looks at all that is
alive, every imported module among it: a good part of the time that the rows of a fast engine take.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000  # between two searches among what is new; 700 is usual


@contextmanager
def rarely_searched() -> Iterator[None]:
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
