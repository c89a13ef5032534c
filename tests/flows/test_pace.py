"""What a run has left is told from what its engine computed, and is right within a tenth once a fifth is done."""

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import pace as paces
from flows.pace import Now, Pace
from flows.progress import in_words, standing
from serving.records import Rates, Usage

RATES = Rates(prefill_s_per_token=0.001, decode_s_per_token=0.02)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    monkeypatch.setattr(paces, "time", told)
    return told


def now(prompt_tokens: int, completion_tokens: int, rates: Rates | None = RATES) -> Now:
    return Now(Decimal("0.1"), prompt_tokens, completion_tokens, rates)


def run(clock: Clock, requests: list[tuple[int, int]], window: int, share: float) -> tuple[float, float]:
    """Play an engine that works on a window of requests at once, to that share of them; (told, true) seconds left."""
    pace = Pace(rows=len(requests))
    pace.begin(len(requests), sum(prompt for prompt, _ in requests))
    waiting = [(prompt, output, float(prompt * 0.001 + output * 0.02)) for prompt, output in requests]
    in_flight = [[*waiting.pop(0)] for _ in range(min(window, len(waiting)))]
    finished = 0
    told = 0.0
    at = None
    computed = [0.0, 0.0]
    while in_flight:
        step = min(left for *_, left in in_flight)
        clock.now += step * len(in_flight)
        for one in in_flight:
            whole = one[0] * 0.001 + one[1] * 0.02
            computed[0] += one[0] * step / whole
            computed[1] += one[1] * step / whole
            one[2] -= step
        for one in [one for one in in_flight if one[2] <= 1e-9]:
            in_flight.remove(one)
            finished += 1
            pace.advance(1, Usage(int(one[0]), int(one[1])))
            if waiting:
                in_flight.append([*waiting.pop(0)])
        if at is None and finished >= share * len(requests):
            left = pace.left_s(now(round(computed[0]), round(computed[1])))
            assert left is not None
            at, told = clock.now, left.value
    assert at is not None
    return told, clock.now - at


@pytest.mark.parametrize("window", [1, 8, 64])
def test_a_fifth_of_the_way_it_is_right_within_a_tenth(clock: Clock, window: int) -> None:
    generator = random.Random(0)
    requests = [(generator.randint(20, 400), generator.randint(5, 40)) for _ in range(1000)]
    told, true = run(clock, requests, window, 0.2)
    assert told == pytest.approx(true, rel=0.1)


def test_long_prompts_to_come_are_counted_as_long(clock: Clock) -> None:
    """By rows alone the rest would be thought to be as quick as the beginning."""
    requests = [(50, 10)] * 500 + [(2000, 10)] * 500
    told, true = run(clock, requests, 8, 0.3)
    assert told == pytest.approx(true, rel=0.1)


@settings(deadline=None, max_examples=50)
@given(done=st.integers(8, 500), left=st.integers(0, 500), seconds=st.floats(1, 1e5), output=st.integers(1, 100))
def test_what_is_left_is_what_it_took_so_far_for_what_is_left(
    done: int, left: int, seconds: float, output: int
) -> None:
    pace = Pace()
    with pytest.MonkeyPatch.context() as patch:
        told = Clock()
        patch.setattr(paces, "time", told)
        pace.begin(done + left, (done + left) * 10)
        told.now = seconds
        for _ in range(done):
            pace.advance(1, Usage(10, output))
        found = pace.left_s(now(done * 10, done * output))
    assert found is not None
    assert found.value == pytest.approx(seconds * left / done)
    assert found.low_90 <= found.value <= found.high_90


def test_nothing_is_told_before_there_is_something_to_tell_from(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(100, 1000)
    assert pace.left_s(now(0, 0)) is None
    clock.now = 5
    assert pace.left_s(now(0, 0)) is None
    for _ in range(20):
        pace.advance(1, Usage(10, 1))
    assert pace.left_s(now(200, 20)) is not None


def test_a_server_that_counts_the_prompts_itself_is_paced_by_those_that_finished(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(100, None)
    clock.now = 10
    for _ in range(50):
        pace.advance(1, Usage(10, 1))
    found = pace.left_s(now(500, 50, rates=None))
    assert found is not None
    assert found.value == pytest.approx(10)


def test_it_is_said_in_rows_tokens_time_and_money(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(100, 1000)
    clock.now = 10
    for _ in range(20):
        pace.advance(1, Usage(10, 1))
    told = in_words(standing(pace, now(200, 20), Decimal("5.00")))
    assert told.startswith("20/100 rows, 22 tokens/s, some 40 s")
    assert told.endswith("$0.100000 of $5.00")
