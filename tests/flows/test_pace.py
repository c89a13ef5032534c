"""What a run has left is told from what its engine computed, and is right within a tenth once a fifth is done."""

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import pace as paces
from flows.pace import Ahead, Now, Pace, UnderWay
from flows.progress import in_words, standing
from optimizer.planner.own_steps import StepTimes
from serving.records import Rates, StepEvidence, Usage

RATES = Rates(prefill_s_per_token=0.001, decode_s_per_token=0.02)


MOST = 512  # tokens of an answer, where nothing else is said


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


class Row(NamedTuple):
    prompt: int
    output: int
    most: int = MOST


def ahead(requests: int, prompt_tokens: int | None) -> Ahead:
    return Ahead(Counter({MOST: requests}), prompt_tokens)


def now(prompt_tokens: int, completion_tokens: int, rates: Rates | None = RATES) -> Now:
    return Now(Decimal("0.1"), prompt_tokens, completion_tokens, rates)


def run(
    clock: Clock,
    rows: Sequence[Row],
    window: int,
    share: float,
    seen: bool = True,
    earlier: Counter[int] | None = None,
) -> tuple[float, float]:
    """Play an engine that gives each of a window of rows a token in turn, to that share of them; (told, true) seconds
    left. `seen` is whether it tells how far those in flight are."""
    pace = Pace(rows=len(rows))
    known = {} if earlier is None else {MOST: earlier}
    pace.begin(Ahead(Counter(row.most for row in rows), sum(row.prompt for row in rows), earlier=known))
    waiting = list(reversed(rows))
    in_flight: list[tuple[Row, int]] = []
    prompts = outputs = finished = 0
    told = at = None
    while waiting or in_flight:
        while waiting and len(in_flight) < window:
            in_flight.append((waiting.pop(), 0))
            prompts += in_flight[-1][0].prompt
            clock.now += in_flight[-1][0].prompt * RATES.prefill_s_per_token
        clock.now += len(in_flight) * RATES.decode_s_per_token
        outputs += len(in_flight)
        in_flight = [(row, age + 1) for row, age in in_flight]
        for row, _ in [(row, age) for row, age in in_flight if age == row.output]:
            finished += 1
            pace.advance(1, Usage(row.prompt, row.output), row.most)
        in_flight = [(row, age) for row, age in in_flight if age < row.output]
        if told is None and finished >= share * len(rows):
            under_way = [UnderWay(row.most, age) for row, age in in_flight] if seen else []
            told = pace.left_s(Now(Decimal(0), prompts, outputs, RATES, under_way))
            at = clock.now
    assert told is not None
    assert at is not None
    return told.value, clock.now - at


@pytest.mark.parametrize("window", [1, 8, 64])
def test_a_fifth_of_the_way_it_is_right_within_a_tenth(clock: Clock, window: int) -> None:
    generator = random.Random(0)
    rows = [Row(generator.randint(20, 400), generator.randint(5, 40)) for _ in range(1000)]
    told, true = run(clock, rows, window, 0.2)
    assert told == pytest.approx(true, rel=0.1)


def long_tailed(seed: int) -> list[Row]:
    generator = random.Random(seed)
    return [Row(20, min(MOST, 1 + int(generator.lognormvariate(3.5, 1.2)))) for _ in range(1000)]


def test_what_has_finished_first_is_short_and_is_not_taken_for_the_rest(clock: Clock) -> None:
    """After a fifth nobody can tell how long the longest will be, but that they are long."""
    fifth = ratios(clock, 0.2)
    by_those_alone = ratios(clock, 0.2, seen=False)
    assert 0.75 < statistics.mean(fifth) < 1.1
    assert statistics.mean(by_those_alone) < 0.65
    assert statistics.mean(ratios(clock, 0.5)) == pytest.approx(1.0, abs=0.1)


def test_answers_to_the_same_input_tell_how_long_the_longest_get(clock: Clock) -> None:
    assert statistics.mean(ratios(clock, 0.2, known=True)) == pytest.approx(1.0, abs=0.05)


def ratios(clock: Clock, share: float, seen: bool = True, known: bool = False) -> list[float]:
    """What was told of what was true, over inputs whose answers have a long tail."""
    found = []
    for seed in range(20):
        generator = random.Random(seed)
        rows = [Row(20, min(MOST, 1 + int(generator.lognormvariate(3.5, 1.2)))) for _ in range(1000)]
        told, true = run(clock, rows, 128, share, seen, Counter(row.output for row in rows[::5]) if known else None)
        found.append(told / true)
    return found


def test_answers_as_long_as_their_limit_are_told_by_their_limit(clock: Clock) -> None:
    """Those with a small one are done first, in whichever order they were fed."""
    generator = random.Random(0)
    rows = [Row(20, most, most) for most in generator.choices([8, 12, 16, 24, 40, 48, 200], k=400)]
    told, true = run(clock, rows, 64, 0.2)
    assert told == pytest.approx(true, rel=0.1)


def test_long_prompts_to_come_are_counted_as_long(clock: Clock) -> None:
    """By rows alone the rest would be thought to be as quick as the beginning."""
    told, true = run(clock, [Row(50, 10)] * 500 + [Row(2000, 10)] * 500, 8, 0.3)
    assert told == pytest.approx(true, rel=0.1)


def after_ten(clock: Clock, begun: Ahead) -> Pace:
    """Ten requests of 10 + 5 tokens have finished, a second each."""
    pace = Pace()
    pace.begin(begun)
    clock.now = 10
    for _ in range(10):
        pace.advance(1, Usage(10, 5), MOST)
    return pace


def told_after(pace: Pace) -> float:
    found = pace.left_s(now(100, 50))
    assert found is not None
    return found.value


def test_lanes_that_come_later_are_counted_as_they_were_forecast(clock: Clock) -> None:
    pace = after_ten(clock, Ahead(Counter({MOST: 20}), 200, later_s=100.0))
    assert told_after(pace) == pytest.approx(110)


def test_rows_that_come_to_it_while_it_runs_are_left_as_well(clock: Clock) -> None:
    pace = after_ten(clock, ahead(10, 100))
    pace.more(ahead(30, 300))
    assert told_after(pace) == pytest.approx(30)


def test_a_lane_that_the_engine_takes_over_is_counted_no_more_as_a_later_one(clock: Clock) -> None:
    pace = after_ten(clock, Ahead(Counter({MOST: 10}), 100, later_s=300.0))
    pace.more(Ahead(Counter({MOST: 30}), 300, later_s=-300.0))
    assert told_after(pace) == pytest.approx(30)


def test_a_row_that_failed_tells_nothing_of_how_long_answers_get(clock: Clock) -> None:
    pace = Pace()
    pace.begin(ahead(40, None))
    clock.now = 10
    for _ in range(10):
        pace.advance(1, Usage(0, 0), MOST)
    for _ in range(10):
        pace.advance(1, Usage(10, 5), MOST)
    found = pace.left_s(now(100, 50, rates=None))
    assert found is not None
    assert found.value == pytest.approx(20, rel=0.35)


@settings(deadline=None, max_examples=50)
@given(done=st.integers(8, 500), left=st.integers(0, 500), seconds=st.floats(1, 1e5), output=st.integers(1, 100))
def test_what_is_left_is_what_it_took_so_far_for_what_is_left(
    done: int, left: int, seconds: float, output: int
) -> None:
    pace = Pace()
    with pytest.MonkeyPatch.context() as patch:
        told = Clock()
        patch.setattr(paces, "time", told)
        pace.begin(ahead(done + left, (done + left) * 10))
        told.now = seconds
        for _ in range(done):
            pace.advance(1, Usage(10, output), MOST)
        found = pace.left_s(now(done * 10, done * output))
    assert found is not None
    assert found.value == pytest.approx(seconds * left / done)
    assert found.low_90 <= found.value <= found.high_90


def test_nothing_is_told_before_there_is_something_to_tell_from(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(ahead(100, 1000))
    assert pace.left_s(now(0, 0)) is None
    clock.now = 5
    assert pace.left_s(now(0, 0)) is None
    for _ in range(20):
        pace.advance(1, Usage(10, 1), MOST)
    assert pace.left_s(now(200, 20)) is not None


def test_a_server_that_counts_the_prompts_itself_is_paced_by_those_that_finished(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(ahead(100, None))
    clock.now = 10
    for _ in range(50):
        pace.advance(1, Usage(10, 1), MOST)
    found = pace.left_s(now(500, 50, rates=None))
    assert found is not None
    assert found.value == pytest.approx(10)


def test_it_is_said_in_rows_tokens_time_and_money(clock: Clock) -> None:
    pace = Pace(rows=100)
    pace.begin(ahead(100, 1000))
    clock.now = 10
    for _ in range(20):
        pace.advance(1, Usage(10, 1), MOST)
    told = in_words(standing(pace, now(200, 20), Decimal("5.00")))
    assert told.startswith("20/100 rows, 22 tokens/s, some 40 s")
    assert told.endswith("$0.100000 of $5.00")


STEPS = StepTimes(0.06, 0.002, 0.0, 0.003, 0.000005)


def evidence(totals: Sequence[float]) -> StepEvidence:
    """Of steps that took just what they should."""
    return StepEvidence(STEPS.of(totals), tuple(totals), (1.0,) * 15)


def told_by_steps(monkeypatch: pytest.MonkeyPatch, clock: Clock, known: StepEvidence | None, slower: float) -> float:
    """Of 100 requests of 50 tokens, ten at once, 40 are done: 300 steps are left, of 10 sequences each."""
    monkeypatch.setattr(paces, "fitted", lambda evidence: STEPS)
    pace = Pace()
    clock.now = 0.0
    pace.begin(Ahead(Counter({50: 100}), 100 * 20, slots=10, known=known))
    clock.now = 10.0
    for _ in range(40):
        pace.advance(1, Usage(20, 50), 50)
    done = evidence((200.0, 800.0, 0.0, 2000.0, 2000 * 45.0))
    done = StepEvidence(done.seconds * slower, done.totals, done.products)
    found = pace.left_s(Now(Decimal(0), 800, 2000, RATES, [], done))
    assert found is not None
    return found.value


def test_where_steps_are_seen_the_rest_is_what_its_steps_take(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    rest = STEPS.of((300.0, 1200.0, 0.0, 3000.0, 3000 * 45.0))
    assert told_by_steps(monkeypatch, clock, None, 1.0) == pytest.approx(rest, rel=0.01)
    assert told_by_steps(monkeypatch, clock, None, 1.5) == pytest.approx(1.5 * rest, rel=0.01)


def test_what_earlier_runs_took_holds_a_few_slow_steps_in_check(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    rest = STEPS.of((300.0, 1200.0, 0.0, 3000.0, 3000 * 45.0))
    known = evidence((1000.0, 0.0, 0.0, 10_000.0, 0.0))
    assert rest < told_by_steps(monkeypatch, clock, known, 2.0) < 1.9 * rest
