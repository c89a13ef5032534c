"""Which row killed the engine? A made-up engine that dies of some rows, and the laws of finding them."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.quarantine import Group, Quarantine
from serving.records import EngineDied

WINDOW = 64


@dataclass
class Machine:
    """Rows run in windows. A killer ends the engine at its first step, or at its last, when others have moved on."""

    rows: int
    killers: set[int]
    at_once: bool = True
    tells_newest: bool = True
    answered: set[int] = field(default_factory=set)
    condemned: set[int] = field(default_factory=set)
    starts: int = 0

    def live(self, quarantine: Quarantine) -> bool:
        """One engine from start to end; False if it died."""
        self.starts += 1
        pending = np.array([row for row in range(self.rows) if row not in self.answered | self.condemned], np.int64)
        if not len(pending):
            return True
        try:
            for turn in quarantine.turns(pending):
                self._run([int(row) for row in turn if row not in self.answered])
        except EngineDied as death:
            killer = quarantine.died(death)
            if killer is not None:
                assert killer in self.killers, "a row was given up that kills nothing"
                self.condemned.add(killer)
            return False
        return True

    def _run(self, rows: list[int]) -> None:
        running: list[int] = []
        for row in rows:
            running.append(row)
            if row in self.killers and self.at_once:
                self._die(row, running)
            if len(running) == WINDOW:
                self._finish(running)
        while running:
            self._finish(running)

    def _finish(self, running: list[int]) -> None:
        row = running.pop(0)
        if row in self.killers:
            self._die(row, [row, *running])
        self.answered.add(row)

    def _die(self, killer: int, running: list[int]) -> None:
        if self.at_once and self.tells_newest:
            others = tuple(row for row in running if row != killer)
            raise EngineDied("it died", (killer, *others), newest=1)
        raise EngineDied("it died", tuple(running))

    def until_done(self) -> None:
        quarantine = Quarantine()
        while not self.live(quarantine):
            assert self.starts < 1000, "it never ends"


@given(st.sets(st.integers(0, 299), max_size=4), st.booleans(), st.booleans())
def test_every_killer_is_found_and_every_other_row_is_answered(
    killers: set[int], at_once: bool, tells_newest: bool
) -> None:
    machine = Machine(300, killers, at_once, tells_newest)
    machine.until_done()
    assert machine.condemned == killers
    assert machine.answered == set(range(300)) - killers


@given(st.integers(0, 299), st.booleans())
def test_one_killer_takes_at_most_log2_of_the_window_restarts_and_one(killer: int, at_once: bool) -> None:
    machine = Machine(300, {killer}, at_once, tells_newest=False)
    machine.until_done()
    assert machine.starts - 1 <= math.log2(WINDOW) + 1


@given(st.integers(0, 299))
def test_a_row_that_kills_at_its_first_step_takes_two_restarts(killer: int) -> None:
    machine = Machine(300, {killer})
    machine.until_done()
    assert machine.starts - 1 == 2


def test_a_death_that_no_row_caused_condemns_none() -> None:
    quarantine = Quarantine()
    turns = quarantine.turns(np.arange(10))
    next(turns)
    assert quarantine.died(EngineDied("out of memory", (3, 4, 5))) is None
    run = [row for turn in quarantine.turns(np.arange(10)) for row in turn]
    assert sorted(run) == list(range(10))
    assert not quarantine.groups


def test_all_others_run_before_any_suspect() -> None:
    quarantine = Quarantine([Group([1, 2, 3, 4], newest=1)])
    first, second, *_ = quarantine.turns(np.arange(6))
    assert (first.tolist(), second.tolist()) == ([0, 5], [1])


@pytest.mark.parametrize(("newest", "piece"), [(0, [1, 2]), (1, [1]), (4, [1, 2])])
def test_the_newest_are_tried_first_unless_all_are_new(newest: int, piece: list[int]) -> None:
    assert Group([1, 2, 3, 4], newest).piece == piece


def test_an_engine_that_does_not_say_what_it_died_of_puts_none_aside() -> None:
    quarantine = Quarantine()
    next(quarantine.turns(np.arange(3)))
    quarantine.died(EngineDied("gone"))
    assert next(quarantine.turns(np.arange(3))).tolist() == [0, 1, 2]
