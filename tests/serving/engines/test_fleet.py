"""Replicas that answer as one, of doubles that are lost on purpose: each row once, whatever becomes of them."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines.fleet import DEATHS_OF_A_ROW, FRUITLESS_STARTS, Fleet
from serving.engines.replica_host import Death, Told
from serving.records import Choice, Completion, Endpoint, EngineDied, Load, Request, Sampling, Usage
from serving.store.meter import Meter, Spent, read_meter

SLOTS = 2


class Double:
    """Answers one row a turn; told to die, it says so at its next turn, and keeps what it was given."""

    def __init__(self, starts: bool = True, killers: frozenset[int] = frozenset(), slow: int = 1) -> None:
        self.ready = False
        self.closed = self.dies = self.leaving = False
        self.rows: list[int] = []
        self.answered: list[int] = []
        self._starts, self._killers, self._slow = starts, killers, slow
        self._turns = 0
        self._returned: tuple[int, ...] = ()

    def give(self, requests: list[Request]) -> None:
        assert self.ready, "nothing is given to a replica that is not ready"
        self.rows += [request.row for request in requests]

    def drain(self) -> None:
        """It has begun what fits into its slots."""
        self._returned = tuple(self.rows[SLOTS:])
        del self.rows[SLOTS:]

    def take(self) -> Told | None:
        self._turns += 1
        if self._returned:
            returned, self._returned = self._returned, ()
            return Told([], returned=returned)
        if not self._starts:
            return Told([], death=Death("it has no model"))
        self.ready = True
        if self.dies:
            return Told([], death=Death("its machine is gone"))
        if killers := self._killers & set(self.rows[:SLOTS]):
            return Told([], death=Death("out of memory", tuple(killers), 1))
        if not self.rows or self._turns % self._slow:
            return Told([]) if self._turns == 1 else None
        self.answered.append(row := self.rows.pop(0))
        spent = Spent(0.0, 3 * len(self.answered), len(self.answered))
        return Told([Completion(row, (Choice("yes", "stop"),), Usage(3, 1))], spent, load=Load(1.0, len(self.answered)))

    def close(self) -> None:
        self.closed = True


Hire = Callable[[], Double]


@contextmanager
def fleet(folder: Path, hire: Hire, replicas: int, stop: Callable[[], bool] = lambda: False) -> Iterator[Fleet[Double]]:
    def wait(replicas: Sequence[Double], seconds: float) -> None:
        pass

    with Meter(folder / "fleet.meter") as meter, Fleet(hire, wait, replicas, 1, SLOTS, stop, meter, print) as one:
        yield one


def requests(count: int) -> Iterator[Request]:
    return (Request(row, str(row), Endpoint.COMPLETION, (), Sampling()) for row in range(count))


def test_each_row_is_answered_once_and_every_replica_is_used(tmp_path: Path) -> None:
    hired: list[Double] = []

    def hire() -> Double:
        hired.append(Double())
        return hired[-1]

    with fleet(tmp_path, hire, 3) as engine:
        rows = [done.row for done in engine.run(requests(30))]
    assert sorted(rows) == list(range(30))
    assert [len(one.answered) for one in hired] == [10, 10, 10]
    assert all(one.closed for one in hired)


def test_what_they_spent_is_counted_on_the_meter(tmp_path: Path) -> None:
    with fleet(tmp_path, Double, 2) as engine:
        assert len(list(engine.run(requests(10)))) == 10
        assert engine.load == Load(1.0 + 1.0, 5.0 + 5.0)
    spent = read_meter(tmp_path / "fleet.meter")
    assert (spent.prompt_tokens, spent.completion_tokens) == (30, 10)


def test_a_slow_replica_keeps_nobody_waiting(tmp_path: Path) -> None:
    hired: list[Double] = []

    def hire() -> Double:
        hired.append(Double(slow=10 if not hired else 1))
        return hired[-1]

    with fleet(tmp_path, hire, 2) as engine:
        assert len(list(engine.run(requests(100)))) == 100
    assert len(hired[0].answered) < 20


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 2**32))
def test_whatever_dies_nothing_is_lost_and_nothing_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, replicas: int, rows: int, seed: int
) -> None:
    draw, alive = random.Random(seed), []

    def hire() -> Double:
        alive.append(Double())
        return alive[-1]

    left, found = list(requests(rows)), []
    while left:  # as a lane does it: what was in flight at two deaths ends the engine, and the rest is asked again
        folder = tmp_path_factory.mktemp("fleet")
        with suppress(EngineDied), fleet(folder, hire, replicas) as engine:
            for done in engine.run(iter(left)):
                found.append(done.row)
                if draw.random() < 0.2:
                    draw.choice(alive).dies = True
                if draw.random() < 0.2:
                    draw.choice(alive).leaving = True
        left = [request for request in left if request.row not in found]
    assert sorted(found) == list(range(rows))


def test_a_replica_whose_machine_is_taken_away_finishes_what_it_has_begun_and_no_more(tmp_path: Path) -> None:
    hired: list[Double] = []

    def hire() -> Double:
        hired.append(Double())
        return hired[-1]

    with fleet(tmp_path, hire, 2) as engine:
        answers = engine.run(requests(40))
        rows = [next(answers).row for _ in range(6)]
        had, hired[0].leaving = len(hired[0].answered), True
        rows += [done.row for done in answers]
        assert hired[0].closed
    assert sorted(rows) == list(range(40))
    assert len(hired) == 3
    assert len(hired[0].answered) <= had + SLOTS


def test_of_a_machine_that_is_gone_before_it_has_finished_no_row_is_suspected(tmp_path: Path) -> None:
    hired: list[Double] = []

    def hire() -> Double:
        hired.append(Double())
        return hired[-1]

    with fleet(tmp_path, hire, 1) as engine:
        rows = []
        for done in engine.run(requests(10)):
            rows.append(done.row)
            if len(hired) <= 2 * DEATHS_OF_A_ROW:  # what it has in flight is lost with it, again and again
                hired[-1].leaving = hired[-1].dies = True
    assert sorted(rows) == list(range(10))
    assert len(hired) > 2 * DEATHS_OF_A_ROW


def test_a_row_that_was_in_flight_at_two_deaths_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineDied, match="out of memory") as raised,
        fleet(tmp_path, lambda: Double(killers=frozenset({5})), 2) as engine,
    ):
        list(engine.run(requests(20)))
    assert raised.value.suspects == (5,)


def test_replicas_that_never_become_ready_end_it(tmp_path: Path) -> None:
    hired: list[Double] = []

    def hire() -> Double:
        hired.append(Double(starts=False))
        return hired[-1]

    with pytest.raises(EngineDied, match="it has no model"), fleet(tmp_path, hire, 2):
        pass
    assert len(hired) == 2 + FRUITLESS_STARTS - 1
    assert all(one.closed for one in hired)


def test_it_begins_with_the_least_and_the_others_join(tmp_path: Path) -> None:
    late: list[Double] = []

    class Late(Double):
        def take(self) -> Told | None:
            return super().take() if self._turns > 10 else self._wait()

        def _wait(self) -> None:
            self._turns += 1

    def hire() -> Double:
        late.append(Late() if late else Double())
        return late[-1]

    with fleet(tmp_path, hire, 2) as engine:
        assert [one.ready for one in late] == [True, False]
        assert len(list(engine.run(requests(60)))) == 60
    assert late[1].answered


def test_a_stop_leaves_what_is_in_flight(tmp_path: Path) -> None:
    seen: list[int] = []
    with fleet(tmp_path, Double, 2, lambda: len(seen) >= 5) as engine:
        for done in engine.run(requests(100)):
            seen.append(done.row)
    assert len(seen) < 10
