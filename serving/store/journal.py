"""Rows that are durable and not yet in a segment: frames with checksums, appended and synced one by one.

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

MAGIC = b"GMJ1"
FIELDS = struct.Struct("<4sIII")  # magic, place of the frame, length of its payload, crc32 of its payload
CRC = struct.Struct("<I")  # of the fields before it
HEADER_BYTES = FIELDS.size + CRC.size


class Journal:
    """The journal of one segment to come; made at its first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Appender | None = None
        self._frames = 0

    def append(self, frame: dict[str, Any]) -> None:
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
    frames: list[dict[str, Any]]
    torn_bytes: int  # of a last frame that was never completed


def framed(place: int, frame: dict[str, Any]) -> bytes:
    payload = own_json(frame)
    fields = FIELDS.pack(MAGIC, place, len(payload), zlib.crc32(payload))
    return fields + CRC.pack(zlib.crc32(fields)) + payload


def read_journal(path: Path) -> Read:
    """Every complete frame.

    Raises:
        Corrupt: a frame that was complete once is not what was written.
    """
    data = path.read_bytes()
    frames: list[dict[str, Any]] = []
    start = 0
    while start < len(data):
        end = _end_of_frame(path, data, start, len(frames))
        if end is None:
            break
        frames.append(json.loads(data[start + HEADER_BYTES : end]))
        start = end
    return Read(frames, len(data) - start)


def _frame_follows(data: bytes, start: int) -> bool:
    """True if a later frame was begun, so that the one at `start` had been completed."""
    at = start
    while (at := data.find(MAGIC, at + 1)) >= 0:
        fields, crc = data[at : at + FIELDS.size], data[at + FIELDS.size : at + HEADER_BYTES]
        if crc == CRC.pack(zlib.crc32(fields)):
            return True
    return False


def _end_of_frame(path: Path, data: bytes, start: int, place: int) -> int | None:
    """Where the frame at `start` ends, or None if it was never completed.

    A payload is JSON and ends in a brace, so a file that ends in a zero byte ends in space that was never written.
    """
    header = data[start : start + HEADER_BYTES]
    unwritten = data.endswith(b"\0") and not _frame_follows(data, start)
    if len(header) < HEADER_BYTES:
        return None
    fields, (expected,) = header[: FIELDS.size], CRC.unpack(header[FIELDS.size :])
    magic, number, length, payload_crc = FIELDS.unpack(fields)
    if (found := zlib.crc32(fields)) != expected or magic != MAGIC or number != place:
        if unwritten:
            return None
        raise Corrupt(
            f"{path}: the header of frame {place} at byte {start} has crc32 {found:08x}, should have {expected:08x}"
        )
    end = start + HEADER_BYTES + int(length)
    if end > len(data):
        return None
    if (found := zlib.crc32(data[start + HEADER_BYTES : end])) != payload_crc:
        if unwritten and end == len(data):
            return None
        raise Corrupt(f"{path}: frame {place} at byte {start} has crc32 {found:08x}, its header says {payload_crc:08x}")
    return end
