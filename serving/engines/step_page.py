"""What an engine does, step by step: a page of shared memory in which it notes each step before it runs it, and what
all of them took. What it was doing when it died is read from there as well."""

import mmap
import os
import struct
from dataclasses import dataclass

from serving.records import StepEvidence

# vllm_worker.py writes them, one after the other, and then the rows of the step that was begun last.
STEP = struct.Struct("<QII")  # steps begun, rows new in this step, rows in it
EVIDENCE = struct.Struct("<Q21d")  # a number that is odd while it is written, seconds, 5 totals, 15 products
TOTALS = 5
MAX_ROWS = 4096
TRIES = 1000  # to read between two writes, which take a microsecond each


@dataclass(frozen=True, slots=True)
class Step:
    number: int = 0
    new: tuple[int, ...] = ()  # rows that ran for the first time
    others: tuple[int, ...] = ()


class StepPage:
    def __init__(self) -> None:
        self.descriptor = os.memfd_create("gristmill-step")
        size = STEP.size + EVIDENCE.size + 8 * MAX_ROWS
        os.ftruncate(self.descriptor, size)
        self._page = mmap.mmap(self.descriptor, size)
        self._last: StepEvidence | None = None  # of a closed page

    def read(self) -> Step:
        """The step that was begun last; of a living engine it may be half written."""
        number, new, count = STEP.unpack_from(self._page)
        rows = struct.unpack_from(f"<{min(count, MAX_ROWS)}q", self._page, STEP.size + EVIDENCE.size)
        return Step(number, rows[:new], rows[new:])

    def evidence(self) -> StepEvidence | None:
        """Of the steps that are over; None before there was one, and where it died while it wrote."""
        if self._page.closed:
            return self._last
        for _ in range(TRIES):
            before, seconds, *sums = EVIDENCE.unpack_from(self._page, STEP.size)
            after = EVIDENCE.unpack_from(self._page, STEP.size)[0]
            if before == after and before % 2 == 0:
                return StepEvidence(seconds, tuple(sums[:TOTALS]), tuple(sums[TOTALS:])) if before else None
        return None

    def close(self) -> None:
        self._last = self.evidence()
        self._page.close()
        os.close(self.descriptor)
