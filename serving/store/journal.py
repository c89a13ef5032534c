"""Rows that are durable and not yet in a segment: frames with checksums, appended and synced one by one.

A frame holds rows, as bytes that this file does not look into, and what is said of them, as JSON.
A crash can leave a part of the last frame, or zeros in its place; that frame was never promised to anyone and is
passed over. Whatever else does not add up is corruption, and is said with its offset.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.own_json import own_json
from serving.store.durable import Appender
from serving.store.sealed import Corrupt

MAGIC = b"GMJ2"
FIELDS = struct.Struct("<4sIIII")  # magic, place of the frame, bytes of its rows, bytes of its facts, crc32 of both
CRC = struct.Struct("<I")  # of the fields before it
HEADER_BYTES = FIELDS.size + CRC.size


@dataclass(frozen=True, slots=True)
class Frame:
    facts: dict[str, Any]
    rows: bytes = b""


class Journal:
    """The journal of one segment to come; made at its first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Appender | None = None
        self._frames = 0

    def append(self, frame: Frame) -> None:
        """The frame is durable when this returns."""
        if self._file is None:
            self._file = Appender(self.path)
        self._file.append(framed(self._frames, frame))
        self._frames += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True)
class Read:
    frames: list[Frame]
    torn_bytes: int  # of a last frame that was never completed


def framed(place: int, frame: Frame) -> bytes:
    facts = own_json(frame.facts)
    fields = FIELDS.pack(MAGIC, place, len(frame.rows), len(facts), zlib.crc32(facts, zlib.crc32(frame.rows)))
    return b"".join((fields, CRC.pack(zlib.crc32(fields)), frame.rows, facts))


def read_journal(path: Path) -> Read:
    """Every complete frame.

    Raises:
        Corrupt: a frame that was complete once is not what was written.
    """
    data = path.read_bytes()
    frames: list[Frame] = []
    start = 0
    while start < len(data):
        found = _frame(path, data, start, len(frames))
        if found is None:
            break
        frame, start = found
        frames.append(frame)
    return Read(frames, len(data) - start)


def _frame_follows(data: bytes, start: int) -> bool:
    """True if a later frame was begun, so that the one at `start` had been completed."""
    at = start
    while (at := data.find(MAGIC, at + 1)) >= 0:
        fields, crc = data[at : at + FIELDS.size], data[at + FIELDS.size : at + HEADER_BYTES]
        if crc == CRC.pack(zlib.crc32(fields)):
            return True
    return False


def _frame(path: Path, data: bytes, start: int, place: int) -> tuple[Frame, int] | None:
    """The frame at `start` and where it ends, or None if it was never completed.

    Facts come last, are JSON and end in a brace, so a file that ends in a zero byte ends in space never written.
    """
    header = data[start : start + HEADER_BYTES]
    unwritten = data.endswith(b"\0") and not _frame_follows(data, start)
    if len(header) < HEADER_BYTES:
        return None
    fields, (expected,) = header[: FIELDS.size], CRC.unpack(header[FIELDS.size :])
    magic, number, rows_bytes, facts_bytes, expected_crc = FIELDS.unpack(fields)
    if (found := zlib.crc32(fields)) != expected or magic != MAGIC or number != place:
        if unwritten:
            return None
        raise Corrupt(
            f"{path}: the header of frame {place} at byte {start} has crc32 {found:08x}, should have {expected:08x}"
        )
    facts_start = start + HEADER_BYTES + int(rows_bytes)
    end = facts_start + int(facts_bytes)
    if end > len(data):
        return None
    if (found := zlib.crc32(data[start + HEADER_BYTES : end])) != expected_crc:
        if unwritten and end == len(data):
            return None
        raise Corrupt(
            f"{path}: frame {place} at byte {start} has crc32 {found:08x}, the header says {expected_crc:08x}"
        )
    return Frame(json.loads(data[facts_start:end]), data[start + HEADER_BYTES : facts_start]), end
