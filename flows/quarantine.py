"""Rows that may have killed an engine: set aside until all else is answered, then halved until one dies alone.

An engine can die of a row (a kernel that reads out of bounds, a prompt that takes more memory than there is) or with a
row in it (a machine that ran out of memory). So no row is given up for one death: it fails when it has died alone.

A death names the rows of the engine's last step. Halving them takes at most log2 of their number restarts, and one for
the death itself. Where some of them ran for the first time in that step they are tried first: most rows that kill do so
at once, and two restarts find them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.records import EngineDied

Rows = NDArray[np.int64]


@dataclass(slots=True)
class Group:
    """Rows of which one kills, as far as is known; of the first `newest` more likely than of the others."""

    rows: list[int]
    newest: int = 0

    @property
    def piece(self) -> list[int]:
        """What is tried next: if it lives, the rest is to blame."""
        likely = self.newest if 0 < self.newest < len(self.rows) else (len(self.rows) + 1) // 2
        return self.rows[:likely]


@dataclass(slots=True)
class Quarantine:
    groups: list[Group] = field(default_factory=list)
    _tried: list[int] = field(default_factory=list)  # the piece that runs now; empty while all others run

    def turns(self, pending: Rows) -> Iterator[Rows]:
        """What an engine is to run, one after the other: all that is above suspicion, then a piece at a time.

        Asking for the next turn says that the engine has lived through the last one.
        """
        suspected = np.array([row for group in self.groups for row in group.rows], np.int64)
        free = np.setdiff1d(pending, suspected) if len(suspected) else pending
        self._tried = []
        if len(free):
            yield free
        while self.groups:
            group = self.groups[0]
            self._tried = group.piece
            yield np.sort(np.array(self._tried, np.int64))
            group.rows, group.newest = group.rows[len(self._tried) :], 0
            if not group.rows:
                self.groups.pop(0)
        self._tried = []

    def died(self, death: EngineDied) -> int | None:
        """Note a death; returns the row that caused it, where it was alone."""
        suspects = list(death.suspects)
        if not self._tried:
            if suspects:
                self.groups.append(Group(suspects, death.newest))
            return None
        self.groups.pop(0)  # what was not tried is above suspicion again
        tried = set(self._tried)
        narrowed = [row for row in suspects if row in tried] or self._tried
        if len(narrowed) == 1:
            return narrowed[0]
        self.groups.insert(0, Group(narrowed, death.newest if narrowed == suspects else 0))
        return None
