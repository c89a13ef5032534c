"""Is there room on the disk for what is to come? Asked before an engine starts, when a no costs nothing."""

import shutil

from flows.members import done_rows
from flows.open import Work

LEAST_BYTES_PER_ROW = 700  # of an answer of one word: its line of output with the journal and segment it comes from
MIB = 2**20


class NoRoom(RuntimeError):
    """The answers cannot all be written. Nothing was spent."""


def check_room(work: Work) -> None:
    """Raises NoRoom where not even the shortest answers would fit."""
    open_rows = work.run.stage(work.run.collapsed).rows("members") - len(done_rows(work))
    needed, free = open_rows * LEAST_BYTES_PER_ROW, shutil.disk_usage(work.run.folder).free
    if needed > free:
        raise NoRoom(
            f"{work.run.folder}: {open_rows} answers need at least {needed / MIB:.0f} MiB, its disk has"
            f" {free / MIB:.0f} MiB; free some, or give --runs a folder on another disk"
        )
