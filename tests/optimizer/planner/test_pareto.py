"""The front: whatever is not on it is beaten by something that is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.pareto import front, thinned

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40)


@given(pairs)
def test_nothing_on_the_front_is_dominated_and_all_else_is(things: list[tuple[int, int]]) -> None:
    costs, times = (np.array([thing[axis] for thing in things], float) for axis in (0, 1))
    kept = front(costs, times).tolist()
    for place, thing in enumerate(things):
        beaten = any(
            other != thing and other[0] <= thing[0] and other[1] <= thing[1] for other in (things[one] for one in kept)
        )
        equal = any(things[one] == thing for one in kept)
        assert (beaten and not equal) if place not in kept and not equal else not beaten


@given(pairs)
def test_the_front_gets_dearer_and_faster(things: list[tuple[int, int]]) -> None:
    costs, times = (np.array([thing[axis] for thing in things], float) for axis in (0, 1))
    kept = front(costs, times)
    assert np.all(np.diff(costs[kept]) > 0)
    assert np.all(np.diff(times[kept]) < 0)


@given(st.integers(0, 100), st.integers(2, 12))
def test_a_thinned_front_keeps_its_ends(count: int, most: int) -> None:
    kept = thinned(np.arange(count), most)
    assert len(kept) == min(count, most)
    assert count == 0 or (kept[0], kept[-1]) == (0, count - 1)
