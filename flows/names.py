"""What each admitted row is called. Names lie on disk, in slots as wide as the longest of their part, and are read as
rows are settled."""

import os
import weakref
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.open import Work
from serving.records import Endpoint
from serving.store.durable import DiskFault

Rows = NDArray[np.int64]
Few = NDArray[np.int8]  # places in ENDPOINTS
ENDPOINTS = tuple(Endpoint)
READ_BYTES = 2**20  # at most, at once, with what lies between the slots


@dataclass(frozen=True)
class Names:
    """The arrays are part by part. A slot is a byte for the endpoint, then the id; rows that were refused leave theirs
    empty."""

    descriptor: int
    first_row: Rows
    begins_at: Rows
    slot_bytes: Rows

    @classmethod
    def of(cls, work: Work) -> Self:
        parts, at = [], 0
        with TemporaryFile(dir=work.run.folder) as file:
            for table in work.run.stage(work.run.admitted).tables("requests", ["row", "custom_id", "endpoint"]):
                slots = _slots(table)
                parts.append((table["row"][0].as_py(), at, slots.itemsize))
                at += file.write(slots.tobytes())
            file.flush()
            descriptor = os.dup(file.fileno())
        named = cls(descriptor, *np.array(parts, np.int64).reshape(-1, 3).T)
        weakref.finalize(named, os.close, descriptor)
        return named

    def named(self, rows: Rows) -> tuple[pa.Array, Few]:
        """The ids of rows, and the places of their endpoints in ENDPOINTS. Raises DiskFault."""
        if not len(rows):
            return pa.array([], pa.string()), np.empty(0, np.int8)
        part = np.searchsorted(self.first_row, rows, side="right") - 1
        sizes = self.slot_bytes[part]
        at = self.begins_at[part] + (rows - self.first_row[part]) * sizes
        slots = self._read(at, sizes)
        names = pa.array([slot[1:].rstrip(b"\0") for slot in slots], pa.binary()).cast(pa.string())
        return names, np.array([slot[0] for slot in slots], np.int8)

    def _read(self, at: Rows, sizes: Rows) -> list[bytes]:
        start, end = int(at.min()), int((at + sizes).max())
        each = list(zip(at.tolist(), sizes.tolist(), strict=True))
        if end - start > READ_BYTES:
            slots = [os.pread(self.descriptor, size, place) for place, size in each]
        else:
            text = os.pread(self.descriptor, end - start, start)
            slots = [text[place - start : place - start + size] for place, size in each]
        if any(len(slot) < size or not slot[1] for slot, (_, size) in zip(slots, each, strict=True)):
            raise DiskFault("the names of rows came back from the disk otherwise than they were written; check it")
        return slots


def _slots(table: pa.Table) -> NDArray[np.void]:
    rows = table["row"].to_numpy()
    longest = pc.max(pc.binary_length(table["custom_id"])).as_py()
    slots = np.zeros(rows[-1] - rows[0] + 1, np.dtype([("endpoint", np.int8), ("name", f"S{longest}")]))
    slots["endpoint"][rows - rows[0]] = pc.index_in(table["endpoint"], pa.array(list(ENDPOINTS))).to_numpy()
    slots["name"][rows - rows[0]] = np.array(table["custom_id"].cast(pa.binary()).to_pylist(), f"S{longest}")
    return slots
