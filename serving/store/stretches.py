"""Tables on disk, cut into stretches: each row is put into one, and a stretch is read back alone."""

from collections import defaultdict
from typing import IO, Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.store.durable import DiskFault

WAITING_ROWS, WAITING_BYTES = 65_536, 32 * 2**20  # in memory, until they are written by their stretches


class Piece(NamedTuple):
    start: int
    size: int
    crc: int


class Stretches:
    """All in one file, however many there are. A stretch gives its rows back in the order in which they came."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._schema = pa.schema([])
        self._waiting: list[tuple[pa.Table, NDArray[np.integer[Any]]]] = []
        self._pieces: defaultdict[int, list[Piece]] = defaultdict(list)

    def add(self, table: pa.Table, stretch: NDArray[np.integer[Any]]) -> None:
        """`stretch` is that of each row."""
        if table.num_rows:
            self._waiting.append((table, stretch))
        rows = sum(table.num_rows for table, _ in self._waiting)
        if rows >= WAITING_ROWS or sum(table.nbytes for table, _ in self._waiting) >= WAITING_BYTES:
            self._write()

    def read(self, stretch: int) -> pa.Table | None:
        """None where it has no row. Raises DiskFault."""
        self._write()
        batches = []
        for piece in self._pieces[stretch]:
            self._file.seek(piece.start)
            text = self._file.read(piece.size)
            if crc32(text) != piece.crc:
                raise DiskFault("rows came back from the disk otherwise than they were written aside; check it")
            batches.append(pa.ipc.read_record_batch(pa.py_buffer(text), self._schema))
        return pa.Table.from_batches(batches, self._schema) if batches else None

    def _write(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables([table for table, _ in self._waiting])
        stretch = np.concatenate([stretch for _, stretch in self._waiting])
        self._waiting, self._schema = [], table.schema
        order = np.argsort(stretch, kind="stable")
        ordered, stretch = table.take(pa.array(order)).combine_chunks(), stretch[order]
        (batch,) = ordered.to_batches()
        self._file.seek(0, 2)
        begins = np.flatnonzero(np.r_[True, stretch[1:] != stretch[:-1]]).tolist()
        for begin, end in zip(begins, [*begins[1:], len(stretch)], strict=True):
            text = batch.slice(begin, end - begin).serialize()
            self._pieces[int(stretch[begin])].append(Piece(self._file.tell(), text.size, crc32(text)))
            self._file.write(text)
