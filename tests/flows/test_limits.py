"""What stops a run: the budget before it is passed, the deadline when it comes."""

import contextlib
import signal
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from flows import interrupts
from flows.limits import Limits, Room, StopReason, _next
from serving.config import BudgetSection
from serving.records import Price

BY_TOKENS = Price("list", "2026-11-23", input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))
BY_TIME = Price("list", "2026-11-23", usd_per_hour=Decimal(3600))  # a dollar a second
NOON = datetime(2026, 11, 23, 12, 0).astimezone()


@pytest.mark.parametrize(
    ("time_of_day", "expected"),
    [
        ("12:01", NOON + timedelta(minutes=1)),
        ("12:00", NOON + timedelta(days=1)),
        ("06:00", NOON + timedelta(hours=18)),
    ],
)
def test_a_deadline_is_the_next_moment_that_shows_it(time_of_day: str, expected: datetime) -> None:
    assert _next(time_of_day, NOON) == expected


def test_a_deadline_that_has_come_stops_the_run() -> None:
    limits = Limits(BudgetSection(deadline="06:00"), BY_TIME)
    assert not limits.stop()

    limits.deadline = NOON.replace(year=2020)

    assert limits.stop()
    assert limits.reason is StopReason.DEADLINE


def test_a_row_is_fed_only_if_the_budget_bears_it_beside_all_in_flight() -> None:
    limits = Limits(BudgetSection(usd=Decimal("0.10")), BY_TOKENS)

    # 0.04 in flight twice is 0.08; a third would make 0.12, until one of them turns out to be cheaper.
    assert [limits.afford(row, Decimal("0.04")) for row in range(3)] == [Room.NOW, Room.NOW, Room.LATER]
    assert limits.reason is StopReason.NONE

    limits.finished(0, Decimal("0.01"))
    assert limits.afford(2, Decimal("0.04")) is Room.NOW


def test_a_row_that_the_budget_cannot_bear_with_nothing_in_flight_ends_the_run() -> None:
    limits = Limits(BudgetSection(usd=Decimal("0.10")), BY_TOKENS)
    limits.afford(0, Decimal("0.08"))
    limits.finished(0, Decimal("0.08"))

    assert limits.afford(1, Decimal("0.04")) is Room.NEVER
    assert limits.reason is StopReason.BUDGET


def test_what_an_engine_that_died_had_in_flight_is_not_waited_for() -> None:
    limits = Limits(BudgetSection(usd=Decimal("0.10")), BY_TOKENS)
    limits.afford(0, Decimal("0.08"))
    limits.release([0])

    assert limits.afford(0, Decimal("0.08")) is Room.NOW


def test_what_a_row_really_cost_frees_what_it_might_have_cost() -> None:
    limits = Limits(BudgetSection(usd=Decimal("0.10")), BY_TOKENS)
    limits.afford(0, Decimal("0.08"))
    limits.finished(0, Decimal("0.01"))

    assert limits.afford(1, Decimal("0.08")) is Room.NOW


def test_engine_time_stops_a_second_before_it_would_pass_the_budget() -> None:
    # A dollar a second: with 2 of 3 dollars booked, the margin of a second is just borne, a moment more is not.
    limits = Limits(BudgetSection(usd=Decimal(3)), BY_TIME)
    limits.spend(Decimal(2))
    assert not limits.stop()

    limits.spend(Decimal("0.01"))

    assert limits.stop()


def test_an_interrupt_that_was_swallowed_before_a_run_listened_stops_it() -> None:
    limits = Limits(BudgetSection(), BY_TIME)
    with interrupts.remembered():
        with contextlib.suppress(KeyboardInterrupt):  # as a library that is being loaded may
            signal.raise_signal(signal.SIGINT)
        with limits.watching_signals():
            assert limits.stop()
            assert limits.reason is StopReason.INTERRUPTED
    assert not interrupts.came()
