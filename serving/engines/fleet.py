"""Engines elsewhere that answer as one: what a lost one leaves is asked again, and another takes its place."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from serving.engines.leases import Leases
from serving.engines.replica_host import Death, Told
from serving.engines.vllm_engine import QUEUE_AHEAD
from serving.records import Completion, EngineDied, Load, Rates, Request, StepEvidence
from serving.store.meter import Meter, Spent

POLL_S = 0.25
LONG_S = 60.0  # to wait for them without a word
START_LIMIT_S = 1800.0  # until as many are ready as it takes to begin
SILENT_S = 60.0  # of a replica that tells every second whether there is news
FRUITLESS_STARTS = 3  # of replicas that never became ready, and no row answered by any in between
DEATHS_OF_A_ROW = 2  # at which it was in flight; then it is more than chance


class Replica(Protocol):
    """One of them; nothing here waits."""

    @property
    def ready(self) -> bool: ...

    @property
    def leaving(self) -> bool:
        """True once its machine is about to be taken away."""

    def give(self, requests: list[Request]) -> None: ...

    def drain(self) -> None:
        """Have it give back what it has not begun, and finish the rest."""

    def take(self) -> Told | None:
        """What it has told since; None where it has said nothing."""

    def close(self) -> None:
        """It may wait here, for a moment."""


R = TypeVar("R", bound=Replica)


@dataclass(slots=True)
class _Member(Generic[R]):
    replica: R
    given: dict[int, Request] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    rates: Rates | None = None
    load: Load | None = None
    heard_s: float = field(default_factory=time.monotonic)


class Fleet(Generic[R]):
    """`hire` makes a replica and leaves it to become ready; `wait` waits for news of any, though not for long.

    Entering waits until `least` of `replicas` are ready; the others join as they come. Each computes `slots` requests
    at once. What they spend is counted on `meter`, as far as they have told it.
    """

    under_way: Mapping[int, int] = {}
    evidence: StepEvidence | None = None  # each is slowed by what else its machine does: steps of one tell nothing

    def __init__(
        self,
        hire: Callable[[], R],
        wait: Callable[[Sequence[R], float], None],
        replicas: int,
        least: int,
        slots: int,
        stop: Callable[[], bool],
        meter: Meter,
        say: Callable[[str], None],
    ) -> None:
        self._hire = hire
        self._wait = wait
        self._replicas = replicas
        self._least = least
        self._slots = slots
        self._window = int(slots * QUEUE_AHEAD) + 1
        self._stop = stop
        self._meter = meter
        self._say = say
        self._members: list[_Member[R]] = []
        self._draining: list[_Member[R]] = []  # their places have been taken by others
        self._lost_load: Load | None = None
        self._fruitless = 0
        self._deaths = Counter[int]()  # by row

    def __enter__(self) -> Self:
        give_up = time.monotonic() + START_LIMIT_S
        say_so = time.monotonic() + LONG_S
        none = Leases(iter(()), self._replicas, 1)
        try:
            self._members = [_Member(self._hire()) for _ in range(self._replicas)]
            while (ready := sum(one.replica.ready for one in self._members)) < self._least and not self._stop():
                if time.monotonic() > give_up:
                    raise EngineDied(f"{ready} of {self._replicas} replicas were ready after {START_LIMIT_S:g} s")
                if time.monotonic() > say_so:
                    self._say(f"{ready} of {self._replicas} replicas are ready; waiting for {self._least}")
                    say_so = give_up
                for _ in self._news(none):
                    pass
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if every := self._alive:
            with ThreadPoolExecutor(len(every)) as pool:  # each may take a moment to end in good order
                list(pool.map(lambda member: member.replica.close(), every))

    @property
    def _alive(self) -> list[_Member[R]]:
        return [*self._members, *self._draining]

    def run(self, requests: Iterator[Request | None]) -> Iterator[Completion]:
        if self._stop():
            return
        leases = Leases(requests, self._replicas, self._slots)
        while leases.left or any(member.given for member in self._alive):
            self._fill(leases)
            yield from self._news(leases)
            if self._stop():
                return

    def _fill(self, leases: Leases) -> None:
        """Give each what it has room for, the emptiest first."""
        batches: dict[int, list[Request]] = {place: [] for place, one in enumerate(self._members) if one.replica.ready}
        while batches:
            place = min(batches, key=lambda place: len(self._members[place].given))
            given = self._members[place].given
            if len(given) >= self._window or (request := leases.next_of(place)) is None:
                break
            given[request.row] = request
            batches[place].append(request)
        for place, batch in batches.items():
            if batch:
                self._members[place].replica.give(batch)

    def _news(self, leases: Leases) -> Iterator[Completion]:
        self._wait([member.replica for member in self._alive], POLL_S)
        for place, member in enumerate(self._members):
            if member.replica.leaving:
                self._let_go(place)
                continue
            told = member.replica.take()
            if told is None:
                if member.replica.ready and time.monotonic() - member.heard_s > SILENT_S:
                    self._lose(place, Death(f"it has said nothing for {SILENT_S:g} s"), leases)
                continue
            yield from self._heard(member, told)
            if told.death is not None:
                self._lose(place, told.death, leases)
        for member in list(self._draining):
            yield from self._drained(member, leases)

    def _let_go(self, place: int) -> None:
        """Nobody is to blame for what is lost with it, and another takes its place at once."""
        self._say(f"the machine of replica {place + 1} of {self._replicas} is taken away: starting another elsewhere")
        self._members[place].replica.drain()
        self._draining.append(self._members[place])
        self._members[place] = _Member(self._hire())

    def _drained(self, member: _Member[R], leases: Leases) -> Iterator[Completion]:
        told = member.replica.take()
        lost = time.monotonic() - member.heard_s > SILENT_S
        if told is not None:
            yield from self._heard(member, told)
            leases.give_back(member.given.pop(row) for row in told.returned if row in member.given)
            lost = told.death is not None
        if lost or not member.given:
            leases.give_back(member.given.values())
            self._lost_load = _sum([self._lost_load, member.load])
            self._draining.remove(member)
            member.replica.close()

    def _heard(self, member: _Member[R], told: Told) -> Iterator[Completion]:
        member.heard_s = time.monotonic()
        if told.spent is not None:
            more = told.spent - member.spent
            self._meter.count(more.prompt_tokens, more.completion_tokens)
            member.spent, member.rates, member.load = told.spent, told.rates, told.load
        if told.completions:
            self._fruitless = 0
        for completion in told.completions:
            if member.given.pop(completion.row, None) is None:
                raise EngineDied(f"a replica answered row {completion.row}, which it was not asked")
            yield completion

    def _lose(self, place: int, death: Death, leases: Leases) -> None:
        """Raises EngineDied where another replica would most likely end in the same way."""
        lost = self._members[place]
        lost.replica.close()
        self._lost_load = _sum([self._lost_load, lost.load])
        self._fruitless += not lost.replica.ready
        if self._fruitless >= FRUITLESS_STARTS:
            raise EngineDied(f"{self._fruitless} replicas ended before they were ready: {death.reason}")
        blamed = [row for row in death.suspects if row in lost.given] or list(lost.given)
        self._deaths.update(blamed)
        if again := tuple(row for row in blamed if self._deaths[row] >= DEATHS_OF_A_ROW):
            raise EngineDied(death.reason, again, min(death.newest, len(again)))
        leases.give_back(lost.given.values())
        self._say(f"replica {place + 1} of {self._replicas} was lost: {death.reason}; starting another")
        self._members[place] = _Member(self._hire())

    @property
    def rates(self) -> Rates | None:
        known = [member.rates for member in self._members if member.rates is not None]
        if not known:
            return None
        prefill, decode = (sum(part) / len(known) / self._replicas for part in zip(*map(astuple, known), strict=True))
        return Rates(prefill, decode)

    @property
    def load(self) -> Load | None:
        return _sum([self._lost_load, *(member.load for member in self._alive)])


def _sum(loads: Sequence[Load | None]) -> Load | None:
    known = [astuple(load) for load in loads if load is not None]
    return Load(*map(sum, zip(*known, strict=True))) if known else None
