"""Admission on several cores: this process and its helpers each read all lines, and judge blocks of rows in turn.

To pass a row over takes a hundredth of what it takes to judge one, so nothing is handed from one to another but what
each found. A helper is forked when all code is loaded and confined: what holds for the process holds for it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from serving.intake.confine import end_with
from serving.intake.files import InputFile
from serving.intake.told import Found
from serving.store.parts import ROWS_PER_PART

BYTES_WORTH_A_HELPER = 4 * 2**20
BLOCK_ROWS = ROWS_PER_PART  # of the input; those that are admitted make a part of the stage
MOST_PROCESSES = 8


@dataclass(frozen=True, slots=True)
class Share:
    """Of so many processes, what this one judges."""

    place: int = 0
    of: int = 1

    def holds(self, row: int) -> bool:
        return row // BLOCK_ROWS % self.of == self.place


def processes_for(files: list[InputFile]) -> int:
    """A Parquet file is read from a descriptor whose place processes would share, so it is read by one."""
    if any(file.name.lower().endswith(".parquet") for file in files):
        return 1
    worth = sum(file.size_bytes for file in files) // BYTES_WORTH_A_HELPER
    return max(1, min(worth, len(os.sched_getaffinity(0)), MOST_PROCESSES))


class Helper:
    """A fork of this process that does `work` and tells what it found."""

    def __init__(self, work: Callable[[], Found]) -> None:
        read_end, write_end = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                end_with(parent)
                with os.fdopen(write_end, "w", encoding="utf-8") as out:
                    json.dump(work(), out)
            finally:  # whatever happens, nothing of what called us is run a second time
                os._exit(0)
        os.close(write_end)
        self._read_end = read_end

    def found(self) -> Found:
        """Waits for it. Where it was ended, this process ends in the same way, so that whoever waits for us sees it."""
        with os.fdopen(self._read_end, encoding="utf-8") as told:
            text = told.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code < 0:
            os.kill(os.getpid(), -code)
        if code or not text:
            os._exit(code or 1)
        found: Found = json.loads(text)
        return found
