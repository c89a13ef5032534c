"""Equal keys among more rows than memory holds: what `exact_representatives` finds, in memory that does not grow.

Keys wait on disk in buckets, by how they begin, and each bucket is looked at alone. What is found there goes back to
disk by the blocks of the input that it belongs to.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.collapse import Keys, Rows, exact_representatives
from optimizer.order.external_sort import Spill

BUCKETS = 256  # by the first byte of a key
BLOCK_ROWS = 500_000  # of the input; a multiple of the rows of a part
BATCH_ROWS = 250_000  # of a bucket, looked at together
KEYED = np.dtype([("key", np.uint64, 4), ("place", np.int64), ("row", np.int64)])
COPY = np.dtype([("place", np.int64), ("first", np.int64)])

Records = NDArray[Any]


class Keyed(NamedTuple):
    """Of requests what equal ones are found by, whatever their length; `rows` ascending, place by place."""

    rows: Rows
    keys: Keys
    repeatable: NDArray[np.bool_]


class Block(NamedTuple):
    rows: Rows
    first: Rows  # of each the first row with the same key


class Buckets:
    """Records in a file, each in a bucket. A bucket gives them back in the order in which they were added."""

    def __init__(self, buckets: int, kind: np.dtype[Any], spill: Spill) -> None:
        self._buckets, self._kind, self._file = buckets, kind, spill()
        self._chunks: list[tuple[int, NDArray[np.int64]]] = []  # where it starts, and in it each bucket, in records

    def add(self, records: Records, bucket: NDArray[np.integer[Any]]) -> None:
        ends = np.cumsum(np.bincount(bucket, minlength=self._buckets))
        self._chunks.append((self._file.tell(), np.concatenate([[0], ends])))
        self._file.write(records[np.argsort(bucket, kind="stable")].tobytes())

    def read(self, bucket: int, rows: int) -> Iterator[Records]:
        """So many together, or a few more."""
        waiting, count = [], 0
        for start, ends in self._chunks:
            begin, end = ends[bucket : bucket + 2].tolist()
            self._file.seek(start + begin * self._kind.itemsize)
            waiting.append(np.frombuffer(self._file.read((end - begin) * self._kind.itemsize), self._kind))
            count += end - begin
            if count >= rows:
                yield np.concatenate(waiting)
                waiting, count = [], 0
        if count:
            yield np.concatenate(waiting)

    def close(self) -> None:
        self._file.close()


def representatives(parts: Iterable[Keyed], spill: Spill) -> Iterator[Block]:
    """Every row with its representative, BLOCK_ROWS at a time; rows that are not repeatable stand for themselves."""
    keyed, every_row = Buckets(BUCKETS, KEYED, spill), spill()
    count = 0
    for part in parts:
        every_row.write(part.rows.tobytes())
        places = np.flatnonzero(part.repeatable)
        records = np.empty(len(places), KEYED)
        records["key"], records["row"], records["place"] = part.keys[places], part.rows[places], count + places
        keyed.add(records, part.keys[places].view(np.uint8)[:, 0])
        count += len(part.rows)
    copies = Buckets(-(-count // BLOCK_ROWS), COPY, spill)
    for bucket in range(BUCKETS):
        for found in _copies(keyed, bucket):
            copies.add(found, found["place"] // BLOCK_ROWS)
    keyed.close()
    every_row.seek(0)
    for block in range(-(-count // BLOCK_ROWS)):
        rows = np.frombuffer(every_row.read(BLOCK_ROWS * 8), np.int64)
        first = rows.copy()
        for found in copies.read(block, BATCH_ROWS):
            first[found["place"] - block * BLOCK_ROWS] = found["first"]
        yield Block(rows, first)
    copies.close()
    every_row.close()


def _copies(keyed: Buckets, bucket: int) -> Iterator[Records]:
    """Those that equal an earlier one. Only representatives are kept from batch to batch: many equal keys are few."""
    seen = np.empty(0, KEYED)
    for batch in keyed.read(bucket, BATCH_ROWS):
        records = np.concatenate([seen, batch])
        first = exact_representatives(records["row"], records["key"], np.ones(len(records), np.bool_))
        copied = first != records["row"]
        found = np.empty(int(copied.sum()), COPY)
        found["place"], found["first"] = records["place"][copied], first[copied]
        yield found
        seen = records[~copied]
