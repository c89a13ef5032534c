"""Sorting more keys than memory holds: sorted runs are written out, then merged."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

RUN_BYTES = 64 * 2**20  # of keys and what Python adds to each
READ_ROWS = 256
ROW_BYTES = 100  # of a key as a Python object, its place and their pair

Spill = Callable[[], IO[bytes]]  # a new empty file that is gone when it is closed
Keyed = tuple[bytes, int]


class Run(NamedTuple):
    file: IO[bytes]
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]


def sorted_keys(keys: Iterable[bytes], spill: Spill, run_bytes: int = RUN_BYTES) -> Iterator[Keyed]:
    """Each key with its place, in ascending order; equal keys by their place. One run is never written out."""
    runs: list[Run] = []
    waiting: list[Keyed] = []
    size = 0
    try:
        for place, key in enumerate(keys):
            waiting.append((key, place))
            size += len(key) + ROW_BYTES
            if size >= run_bytes:
                runs.append(_written(sorted(waiting), spill))
                waiting, size = [], 0
        yield from heapq.merge(*(_read(run) for run in runs), sorted(waiting))
    finally:
        for run in runs:
            run.file.close()


def _written(keyed: list[Keyed], spill: Spill) -> Run:
    file = spill()
    file.writelines(key for key, _ in keyed)
    file.seek(0)
    return Run(file, np.array([place for _, place in keyed]), np.array([len(key) for key, _ in keyed]))


def _read(run: Run) -> Iterator[Keyed]:
    for start in range(0, len(run.places), READ_ROWS):
        ends = np.cumsum(run.sizes[start : start + READ_ROWS]).tolist()
        text = run.file.read(ends[-1])
        keys = (text[begin:end] for begin, end in pairwise([0, *ends]))
        yield from zip(keys, run.places[start : start + READ_ROWS].tolist(), strict=True)
