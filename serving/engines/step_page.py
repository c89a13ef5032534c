"""What an engine was doing when it died: a page of shared memory in which it notes each step before it runs it."""

import mmap
import os
import struct
from dataclasses import dataclass

STEP = struct.Struct("<QII")  # steps begun, rows new in this step, rows in it; then the rows. vllm_worker.py writes it
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Step:
    number: int = 0
    new: tuple[int, ...] = ()  # rows that ran for the first time
    others: tuple[int, ...] = ()


class StepPage:
    def __init__(self) -> None:
        self.descriptor = os.memfd_create("gristmill-step")
        size = STEP.size + 8 * MAX_ROWS
        os.ftruncate(self.descriptor, size)
        self._page = mmap.mmap(self.descriptor, size)

    def read(self) -> Step:
        """The step that was begun last; of a living engine it may be half written."""
        number, new, count = STEP.unpack_from(self._page)
        rows = struct.unpack_from(f"<{min(count, MAX_ROWS)}q", self._page, STEP.size)
        return Step(number, rows[:new], rows[new:])

    def close(self) -> None:
        self._page.close()
        os.close(self.descriptor)
