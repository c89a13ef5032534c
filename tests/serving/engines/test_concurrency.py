"""Window: additive increase, multiplicative decrease, whatever a server does."""

from hypothesis import given
from hypothesis import strategies as st

from serving.engines.openai_api.concurrency import FIRST_LIMIT, Window

CEILINGS = st.integers(1, 64)
# What happens next: send one more if there is room, or the oldest in flight is answered or refused.
EVENTS = st.lists(st.sampled_from(["send", "answered", "overloaded"]), max_size=300)


@given(CEILINGS, EVENTS)
def test_it_stays_between_one_and_its_ceiling(ceiling: int, events: list[str]) -> None:
    window = Window(ceiling)
    in_flight: list[int] = []
    for event in events:
        if event == "send" and len(in_flight) < window.limit:
            in_flight.append(window.send())
        elif event != "send" and in_flight:
            getattr(window, event)(in_flight.pop(0))
        assert 1 <= window.limit <= ceiling


@given(CEILINGS, EVENTS)
def test_it_recovers_from_anything(ceiling: int, events: list[str]) -> None:
    window = Window(ceiling)
    for event in events:
        if event != "send":
            getattr(window, event)(window.send())
    # From 1 to the ceiling one at a time: 1 + 2 + ... + (ceiling - 1) answers.
    for _ in range(ceiling * (ceiling - 1) // 2):
        window.answered(window.send())
    assert window.limit == ceiling


@given(st.integers(2, 64), st.data())
def test_one_overload_halves_it_once_however_many_in_flight_report_it(limit: int, data: st.DataObject) -> None:
    window = at(limit)
    in_flight = [window.send() for _ in range(limit)]
    reporting = data.draw(st.lists(st.sampled_from(in_flight), min_size=1, unique=True))
    for ticket in reporting:
        window.overloaded(ticket)
    assert window.limit == limit // 2


@given(st.integers(4, 64))
def test_what_is_sent_after_a_cut_can_cut_again(limit: int) -> None:
    window = at(limit)
    window.overloaded(window.send())
    window.overloaded(window.send())
    assert window.limit == limit // 2 // 2


@given(st.integers(2, 64))
def test_what_was_sent_before_a_cut_adds_nothing_after_it(limit: int) -> None:
    window = at(limit)
    before = [window.send() for _ in range(limit)]
    window.overloaded(before[0])
    for ticket in before[1:] * 3:
        window.answered(ticket)
    assert window.limit == limit // 2


def test_after_a_cut_it_takes_a_whole_window_of_answers_to_add_one() -> None:
    window = at(16)
    window.overloaded(window.send())
    limits = []
    for _ in range(17):
        window.answered(window.send())
        limits.append(window.limit)
    assert limits == [8] * 7 + [9] * 9 + [10]  # 8 answers for the ninth slot, 9 more for the tenth


def test_an_overload_within_a_window_starts_the_count_again() -> None:
    window = at(16)
    window.overloaded(window.send())
    for _ in range(7):
        window.answered(window.send())
    window.overloaded(window.send())
    window.answered(window.send())
    assert window.limit == 4


def test_until_the_first_overload_each_answer_adds_one() -> None:
    window = Window(100)
    for _ in range(60):
        window.answered(window.send())
    assert window.limit == FIRST_LIMIT + 60


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0, 1000))
def test_it_is_held_as_long_as_the_longest_hold_says(holds: list[float], now_s: float) -> None:
    window = Window(4)
    for until_s in holds:
        window.hold(until_s)
    assert window.held_s(now_s) == max(0.0, max(holds) - now_s)


def at(limit: int) -> Window:
    """A window that has grown to `limit`."""
    window = Window(limit)
    while window.limit < limit:
        window.answered(window.send())
    return window
