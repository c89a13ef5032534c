"""What ends a run before its last row: the budget, the deadline, a signal. Each leaves it resumable."""

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import FrameType

from flows import interrupts
from optimizer.cost import usd_of_time
from serving.config import BudgetSection
from serving.records import Price

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTHING = Decimal(0)
MARGIN_S = 1.0  # to stop an engine and to note what it did takes less; the budget is not passed meanwhile


class StopReason(StrEnum):
    NONE = "none"
    BUDGET = "budget"
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"


class Room(StrEnum):
    """Whether the budget can bear a row beside all that is in flight."""

    NOW = "now"
    LATER = "later"  # it may, once what is in flight has cost less than it could have
    NEVER = "never"


class Stopped(Exception):
    """A stage ended early because a limit was reached; it runs again when the job is resumed."""


class Limits:
    """Says when to stop. What is durable is spent; engine time that runs and tokens in flight count as well."""

    def __init__(self, budget: BudgetSection, price: Price) -> None:
        self.reason = StopReason.NONE
        self._spent_usd = Decimal(0)
        self._reserved_usd: dict[int, Decimal] = {}  # by row: what is in flight, or finished and not yet durable
        self._in_flight_usd = Decimal(0)  # their sum
        self._unfinished: set[int] = set()  # rows in flight, of which the true cost is not known yet
        self._budget_usd = budget.usd
        self._price = price
        self.deadline = None if budget.deadline is None else _next(budget.deadline, datetime.now().astimezone())
        self._running_since: float | None = None

    def start_clock(self) -> None:
        """Engine time runs, and is billed, from now on."""
        self._running_since = time.monotonic()

    def stop_clock(self) -> float:
        """Seconds since start_clock: a span to be noted and billed."""
        assert self._running_since is not None
        span_s = time.monotonic() - self._running_since
        self._running_since = None
        return span_s

    def lap(self) -> float:
        """stop_clock and start_clock at one instant, so that no time falls between two spans."""
        span_s = self.stop_clock()
        self.start_clock()
        return span_s

    def spend(self, usd: Decimal) -> None:
        """Note money that is durably booked."""
        self._spent_usd += usd

    def finished(self, row: int, usd: Decimal) -> None:
        """What a row in flight has really cost, until that is booked."""
        if self._budget_usd is not None:
            self._unfinished.discard(row)
            self._reserve(row, usd)

    def release(self, rows: Iterable[int]) -> None:
        """The money of these rows has been booked, or they are in flight no more."""
        if self._budget_usd is None:
            return
        for row in rows:
            self._unfinished.discard(row)
            self._in_flight_usd -= self._reserved_usd.pop(row, NOTHING)

    def _reserve(self, row: int, usd: Decimal) -> None:
        self._in_flight_usd += usd - self._reserved_usd.get(row, NOTHING)
        self._reserved_usd[row] = usd

    def stop(self) -> bool:
        """True once a limit is reached; engines ask several times a second."""
        if self.reason is StopReason.NONE:
            if self._budget_usd is not None and self._would_pass(self.running_usd):
                self.reason = StopReason.BUDGET
            elif self.deadline is not None and datetime.now().astimezone() >= self.deadline:
                self.reason = StopReason.DEADLINE
        return self.reason is not StopReason.NONE

    def afford(self, row: int, at_worst_usd: Decimal) -> Room:
        """With Room.NOW the money is reserved; with Room.NEVER the run stops."""
        if self._budget_usd is None:
            return Room.NOW if self.reason is StopReason.NONE else Room.NEVER
        if self._would_pass(self.running_usd + self._in_flight_usd + at_worst_usd):
            if self._unfinished and self.reason is StopReason.NONE:
                return Room.LATER
            self.reason = StopReason.BUDGET
        if self.reason is not StopReason.NONE:
            return Room.NEVER
        self._reserve(row, at_worst_usd)
        self._unfinished.add(row)
        return Room.NOW

    @property
    def left_s(self) -> float:
        """Until the deadline."""
        if self.deadline is None:
            return float("inf")
        return max(0.0, (self.deadline - datetime.now().astimezone()).total_seconds())

    @property
    def running_s(self) -> float:
        """Engine time since the last span was noted."""
        return 0.0 if self._running_since is None else time.monotonic() - self._running_since

    @property
    def running_usd(self) -> Decimal:
        """Booked, and running up to now."""
        return self._spent_usd + usd_of_time(self._price, self.running_s)

    @contextmanager
    def watching_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP end the run in good order; a second one ends it at once, which is as safe."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.reason is StopReason.INTERRUPTED:
                raise KeyboardInterrupt
            self.reason = StopReason.INTERRUPTED

        try:
            before = {number: signal.signal(number, note) for number in STOPPING}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            yield
            return
        if interrupts.came():
            self.reason = StopReason.INTERRUPTED
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _would_pass(self, usd: Decimal) -> bool:
        assert self._budget_usd is not None
        return usd + usd_of_time(self._price, MARGIN_S) > self._budget_usd


def _next(time_of_day: str, now: datetime) -> datetime:
    """The next moment when the clock shows `time_of_day` (HH:MM, local)."""
    hour, minute = time_of_day.split(":")
    today = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)
