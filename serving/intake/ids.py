"""Ids are unique over all files. None stays in memory: digests wait on disk, in buckets that are looked at in turn."""

import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from serving.intake.files import BadInput
from serving.intake.shown import shown

DIGEST_BYTES = 16  # nobody finds two ids of one digest: an equal digest is an equal id
RECORD = np.dtype([("high", np.uint64), ("low", np.uint64), ("row", np.int64)])
BUCKETS = 256  # by the first byte of the digest: distinct ids fill them alike
CHUNK_ROWS = 65_536  # wait in memory, and are then written by their buckets
BATCH_ROWS = 2**20  # of a bucket, looked at together
ENDS_BYTES = 8 * BUCKETS  # how many records of a chunk stand up to the end of each bucket: before them
CHUNK_BYTES = ENDS_BYTES + CHUNK_ROWS * RECORD.itemsize
NO_ROW = np.iinfo(np.int64).max

Records = NDArray[Any]  # of RECORD


class Ids:
    """Notes ids as they come, for `must_be_unique` to tell at the end whether one stood twice."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """`folder` is where two files without a name lie: on the disk of the run. The `key` is random, so that nobody
        can make up ids whose digests crowd, and the same for all that are checked together."""
        self._key = key
        self._digests, self._rows = bytearray(), array("q")
        self._chunks: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._noted: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)  # noqa: SIM115 (closed by __exit__)

    def note(self, row: int, custom_id: str, place: str) -> None:
        """`place` is file:line. Neither holds a line break: ids have no control characters, and a name is escaped."""
        self._digests += blake2b(custom_id.encode(), digest_size=DIGEST_BYTES, key=self._key).digest()
        self._rows.append(row)
        self._noted.write(f"{row}\t{custom_id}\t{place}\n")
        if len(self._rows) >= CHUNK_ROWS:
            self._write_chunk()

    def flush(self) -> None:
        """To the files, where whoever shares them can read what was noted."""
        if len(self._rows):
            self._write_chunk()
        self._chunks.flush()
        self._noted.flush()

    def _write_chunk(self) -> None:
        records = np.empty(len(self._rows), RECORD)
        records["high"], records["low"] = np.frombuffer(self._digests, np.uint64).reshape(-1, 2).T
        records["row"] = self._rows
        bucket = np.frombuffer(self._digests, np.uint8)[::DIGEST_BYTES]
        self._chunks.write(np.cumsum(np.bincount(bucket, minlength=BUCKETS)).tobytes())
        self._chunks.write(records[np.argsort(bucket, kind="stable")].tobytes())
        self._digests, self._rows = bytearray(), array("q")

    def chunk_ends(self) -> NDArray[np.int64]:
        """Chunk by chunk, how many of its records stand up to the end of each bucket."""
        descriptor = self._chunks.fileno()
        starts = range(0, os.fstat(descriptor).st_size, CHUNK_BYTES)
        ends = b"".join(os.pread(descriptor, ENDS_BYTES, start) for start in starts)
        return np.frombuffer(ends, np.int64).reshape(-1, BUCKETS)

    def records(self, chunk: int, start: int, end: int) -> Records:
        at = chunk * CHUNK_BYTES + ENDS_BYTES + start * RECORD.itemsize
        return np.frombuffer(os.pread(self._chunks.fileno(), (end - start) * RECORD.itemsize, at), RECORD)

    def noted(self) -> Iterator[tuple[int, str, str]]:
        """Row, id and place."""
        self._noted.seek(0)
        for line in self._noted:
            row, custom_id, place = line.removesuffix("\n").split("\t", 2)
            yield int(row), custom_id, place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.close()
        self._noted.close()


def must_be_unique(parts: Sequence[Ids]) -> None:
    """Raises BadInput if an id stands twice, in one of them or in two: answers could not be told apart. Of several, it
    is the one that comes again first."""
    for part in parts:
        part.flush()
    first, again = NO_ROW, NO_ROW
    ends = [part.chunk_ends() for part in parts]
    for bucket in range(BUCKETS):
        seen = np.empty(0, RECORD)  # distinct ids, so that many equal ones take no memory
        for records in _batches(parts, ends, bucket):
            seen = np.concatenate([seen, records])
            first, again = min((first, again), _first_again(seen), key=lambda rows: rows[1])
            seen = seen[seen["row"] < again]
    if again == NO_ROW:
        return
    named = {row: (name, place) for part in parts for row, name, place in part.noted() if row in (first, again)}
    custom_id, place = named[again]
    where = f"{named[first][1]} and {place}"
    raise BadInput("E_DUPID", f"id {shown(custom_id)} stands twice, at {where}; give every row its own id")


def _batches(parts: Sequence[Ids], ends: Sequence[NDArray[np.int64]], bucket: int) -> Iterator[Records]:
    waiting, rows = [], 0
    for part, ends_of_part in zip(parts, ends, strict=True):
        starts = ends_of_part[:, bucket - 1] if bucket else np.zeros(len(ends_of_part), np.int64)
        for chunk, (start, end) in enumerate(zip(starts.tolist(), ends_of_part[:, bucket].tolist(), strict=True)):
            waiting.append(part.records(chunk, start, end))
            rows += end - start
            if rows >= BATCH_ROWS:
                yield np.concatenate(waiting)
                waiting, rows = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _first_again(records: Records) -> tuple[int, int]:
    """The least row whose id another one has before it, after that one; NO_ROW twice where there is none."""
    by_half = np.argsort(records["high"])
    half = records["high"][by_half]
    equal = half[1:] == half[:-1]  # of few: the rest of them is looked at
    if not equal.any():
        return NO_ROW, NO_ROW
    few = records[by_half[np.r_[equal, False] | np.r_[False, equal]]]
    few = few[np.lexsort((few["row"], few["low"], few["high"]))]
    twice = np.flatnonzero((few["high"][1:] == few["high"][:-1]) & (few["low"][1:] == few["low"][:-1]))
    if not len(twice):
        return NO_ROW, NO_ROW
    at = twice[np.argmin(few["row"][1:][twice])]
    return int(few["row"][at]), int(few["row"][at + 1])
