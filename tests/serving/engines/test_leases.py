"""Requests dealt to several engines: each once, neighbours together, nobody idle while another has some to spare."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines.leases import Leases
from serving.records import Endpoint, Request, Sampling


def request(row: int) -> Request:
    return Request(row, str(row), Endpoint.COMPLETION, (), Sampling())


def rows(count: int) -> Iterator[Request | None]:
    return map(request, range(count))


def dealt(leases: Leases, asking: list[int]) -> list[int | None]:
    """The rows that engines get, in the order in which they ask."""
    found = [leases.next_of(replica) for replica in asking]
    return [one and one.row for one in found]


def test_an_engine_gets_rows_that_follow_each_other() -> None:
    leases = Leases(rows(100), 2, 4)
    assert dealt(leases, [0, 1, 0, 1, 0, 1, 0, 1, 0]) == [0, 4, 1, 5, 2, 6, 3, 7, 8]


def test_at_the_end_an_engine_takes_over_half_of_what_another_has_not_begun() -> None:
    leases = Leases(rows(8), 2, 8)
    assert dealt(leases, [0, 1]) == [0, 4]  # of the seven that are left to it, 4 to 7, in their order
    assert dealt(leases, [1, 1, 1, 1]) == [5, 6, 7, 2]
    assert dealt(leases, [0, 0, 1]) == [1, 3, None]


def test_fewer_rows_than_a_lease_still_reach_every_engine() -> None:
    leases = Leases(rows(4), 4, 64)
    assert None not in dealt(leases, [0, 1, 2, 3])
    assert not leases.left


def test_what_a_dead_engine_had_comes_before_anything_new() -> None:
    leases = Leases(rows(10), 2, 2)
    taken = [leases.next_of(0), leases.next_of(0)]
    leases.give_back(one for one in taken if one is not None)
    assert dealt(leases, [1, 1, 1]) == [0, 1, 2]


def test_where_there_is_none_for_now_it_asks_again() -> None:
    leases = Leases(iter([request(0), None, request(1)]), 1, 8)
    assert dealt(leases, [0, 0]) == [0, 1]
    assert dealt(leases, [0]) == [None]
    assert not leases.left


@pytest.mark.parametrize("lease", [1, 64])
def test_nothing_is_pulled_that_nobody_asks_for(lease: int) -> None:
    pulled: list[int] = []

    def watched() -> Iterator[Request]:
        for row in range(1000):
            pulled.append(row)
            yield request(row)

    Leases(watched(), 3, lease).next_of(0)
    assert len(pulled) == lease


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 5),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200),
)
def test_every_request_is_answered_once(
    there: list[bool], replicas: int, lease: int, asked: list[tuple[int, bool]]
) -> None:
    """Whoever asks in whatever order, and whatever is given back by engines that die."""
    numbers = iter(range(len(there)))
    leases = Leases((request(next(numbers)) if one else None for one in there), replicas, lease)
    answered: list[int] = []
    for place, dies in asked + [(0, False)] * (2 * len(there) + 1):
        if (found := leases.next_of(place % replicas)) is None:
            continue
        if dies:
            leases.give_back([found])
        else:
            answered.append(found.row)
    assert sorted(answered) == list(range(sum(there)))
    assert not leases.left
