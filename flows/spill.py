"""Files for what memory need not hold: in the run's folder, without a name, gone when they are closed or we are."""

from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile

from optimizer.order.external_sort import Spill

IN_MEMORY_BYTES = 2**20  # of each, before it goes to disk


def spill_to(folder: Path) -> Spill:
    return partial(SpooledTemporaryFile, IN_MEMORY_BYTES, dir=folder)
