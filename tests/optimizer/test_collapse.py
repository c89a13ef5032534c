"""Which rows may share one answer: equal keys, and near ones by stars in which each row was compared directly."""

from itertools import combinations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from optimizer.collapse import (
    NOWHERE,
    SOURCES,
    Assignments,
    Pair,
    assign,
    exact_representatives,
    first_equal,
    judge_pairs,
    star_cover,
)
from serving.records import Source

ROWS = range(9)


@st.composite
def compared(draw: st.DrawFn) -> list[Pair]:
    """Any graph over nine rows; each pair in it is allowed or vetoed."""
    edges = draw(st.lists(st.sampled_from(list(combinations(ROWS, 2))), unique=True))
    vetoes = st.sampled_from([None, None, "numbers"])
    return [Pair(row, other, Source.SEMANTIC, 0.97, draw(vetoes)) for row, other in edges]


Keyed = list[tuple[int, tuple[int, ...], bool]]
# A sha256 as four words; each differs from the first in one word, so that none of the four may be left out.
KEYS = st.sampled_from([(1, 2, 3, 4), (9, 2, 3, 4), (1, 9, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9)])


@st.composite
def keyed(draw: st.DrawFn) -> Keyed:
    """Rows in order, with gaps where rows were refused, each with a key, repeatable or drawn at random."""
    numbers = sorted(draw(st.sets(st.integers(0, 40), max_size=20)))
    return [(row, draw(KEYS), draw(st.booleans())) for row in numbers]


def representatives(rows: Keyed) -> dict[int, int]:
    numbers = np.array([row for row, _, _ in rows], np.int64)
    keys = np.array([key for _, key, _ in rows], np.uint64).reshape(-1, 4)
    found = exact_representatives(numbers, keys, np.array([drawn for _, _, drawn in rows], np.bool_))
    return dict(zip(numbers.tolist(), found.tolist(), strict=True))


@given(st.lists(KEYS), st.lists(KEYS))
def test_a_key_is_found_at_the_first_place_of_those_that_equal_it_in_every_bit(
    keys: list[tuple[int, ...]], among: list[tuple[int, ...]]
) -> None:
    found = first_equal(*(np.array(some, np.uint64).reshape(-1, 4) for some in (keys, among)))
    assert found.tolist() == [among.index(key) if key in among else NOWHERE for key in keys]


def assigned(exact: dict[int, int], served: dict[int, int]) -> dict[int, tuple[int, Source]]:
    """By row, the row that answers it, and how."""
    found: Assignments = assign(np.array(list(exact), np.int64), np.array(list(exact.values()), np.int64), served)
    sources = [SOURCES[code] for code in found.source]
    return dict(zip(exact, zip(found.answered_by.tolist(), sources, strict=True), strict=True))


WEIGHT = st.fixed_dictionaries({row: st.integers(1, 5) for row in ROWS})


def allowed(pairs: list[Pair]) -> set[frozenset[int]]:
    return {frozenset((pair.row, pair.other_row)) for pair in pairs if pair.veto is None}


@given(compared(), WEIGHT)
def test_nobody_is_served_by_a_row_that_is_itself_served(pairs: list[Pair], weight: dict[int, int]) -> None:
    served = star_cover(pairs, weight)
    assert not served.keys() & set(served.values())


@given(compared(), WEIGHT)
def test_every_served_row_was_compared_with_its_representative(pairs: list[Pair], weight: dict[int, int]) -> None:
    served = star_cover(pairs, weight)
    assert {frozenset(pair) for pair in served.items()} <= {frozenset((pair.row, pair.other_row)) for pair in pairs}


@given(compared(), WEIGHT)
def test_no_row_is_served_across_a_veto(pairs: list[Pair], weight: dict[int, int]) -> None:
    vetoed = {frozenset((pair.row, pair.other_row)) for pair in pairs if pair.veto is not None}
    assert not {frozenset(pair) for pair in star_cover(pairs, weight).items()} & vetoed


@given(compared(), WEIGHT)
def test_of_two_rows_that_may_share_an_answer_one_is_served(pairs: list[Pair], weight: dict[int, int]) -> None:
    assume(all(pair.veto is None for pair in pairs))  # a veto between two rows can keep both out of a star
    served = star_cover(pairs, weight)
    assert all(pair & served.keys() for pair in allowed(pairs))


def test_rows_that_a_veto_keeps_apart_share_no_answer_through_a_third() -> None:
    pairs = [
        Pair(0, 1, Source.SEMANTIC, 0.97),
        Pair(0, 2, Source.SEMANTIC, 0.97),
        Pair(1, 2, Source.SEMANTIC, 0.96, "numbers"),
    ]
    assert star_cover(pairs, dict.fromkeys(range(3), 1)) == {1: 0}


@given(compared(), WEIGHT)
def test_the_cover_does_not_depend_on_the_order_of_the_pairs(pairs: list[Pair], weight: dict[int, int]) -> None:
    assert star_cover(pairs[::-1], weight) == star_cover(pairs, weight)


def test_likeness_does_not_chain() -> None:
    # 0 ~ 1 ~ 2 ~ 3 is one component, but only neighbours were compared: two stars, around 1 and 3.
    chain = [Pair(row, row + 1, Source.SEMANTIC, 0.97) for row in range(3)]
    assert star_cover(chain, dict.fromkeys(ROWS, 1)) == {0: 1, 2: 1}


def test_the_row_that_saves_most_stands_in_the_middle() -> None:
    # 0 would save row 1 alone (weight 1); 1 saves row 0 with its four copies.
    pairs = [Pair(0, 1, Source.SEMANTIC, 0.97)]
    assert star_cover(pairs, {0: 4, 1: 1}) == {0: 1}


@given(keyed())
def test_repeatable_rows_with_one_key_share_the_first_of_them(rows: Keyed) -> None:
    found = representatives(rows)
    for row, key, repeatable in rows:
        if repeatable:
            assert found[row] == min(other for other, other_key, drawn in rows if other_key == key and drawn)


@given(keyed())
def test_a_row_that_is_drawn_at_random_stands_for_itself(rows: Keyed) -> None:
    found = representatives(rows)
    assert all(found[row] == row for row, _, repeatable in rows if not repeatable)


@given(keyed())
def test_a_row_that_is_drawn_at_random_answers_no_other(rows: Keyed) -> None:
    found = representatives(rows)
    drawn = {row for row, _, repeatable in rows if not repeatable}
    assert all(first not in drawn for row, first in found.items() if row != first)


@given(keyed(), compared(), WEIGHT)
def test_every_row_is_answered_by_a_row_that_is_run(rows: Keyed, pairs: list[Pair], weight: dict[int, int]) -> None:
    exact = representatives(rows)
    firsts = set(exact.values())
    among_firsts = [pair for pair in pairs if {pair.row, pair.other_row} <= firsts]
    members = assigned(exact, star_cover(among_firsts, weight))
    assert members.keys() == exact.keys()
    assert all(members[answered_by] == (answered_by, Source.ENGINE) for answered_by, _ in members.values())


def test_a_duplicate_follows_its_representative_to_that_ones_star() -> None:
    # 1 is a copy of 0, and 0 is near 2: both are answered by 2, and neither of them exactly.
    near = (2, Source.SEMANTIC)
    assert assigned({0: 0, 1: 0, 2: 2}, {0: 2}) == {0: near, 1: near, 2: (2, Source.ENGINE)}


def test_a_copy_is_told_from_a_row_that_is_run() -> None:
    assert assigned({3: 3, 5: 3}, {}) == {3: (3, Source.ENGINE), 5: (3, Source.EXACT)}


def test_a_pair_keeps_the_reason_that_forbids_it() -> None:
    [same, other] = judge_pairs([(0, 1, 0.99), (0, 2, 0.98)], {0: "add 2 and 2", 1: "add 2 and 2", 2: "add 2 and 3"})
    assert (same.veto, other.veto) == (None, "numbers")
