"""Word order: who does what to whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.differences.word_order import in_another_voice, longest_common, reordered

WORDS = st.lists(st.sampled_from("abcde"), max_size=12)


def by_table(left: list[str], right: list[str]) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        before = row[:]
        for place, other in enumerate(right, start=1):
            row[place] = before[place - 1] + 1 if word == other else max(before[place], row[place - 1])
    return row[-1]


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_that_of_the_table(left: list[str], right: list[str]) -> None:
    assert longest_common(left, right) == by_table(left, right)


@given(st.permutations("abcdef"), st.permutations("abcdef"))
def test_the_same_words_in_another_order_are_reordered(left: list[str], right: list[str]) -> None:
    assert reordered(left, right) == (left != right)


@given(WORDS, st.data())
def test_words_that_come_in_between_reorder_nothing(words: list[str], data: st.DataObject) -> None:
    kept = [word for word in words if data.draw(st.booleans())]
    assert not reordered(words, kept)
    assert not reordered(kept, words)


@given(st.permutations("abcdef"), st.data())
def test_two_words_that_change_places_are_seen_among_others(words: list[str], data: st.DataObject) -> None:
    one, other = data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True))
    swapped = list(words)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    swapped.insert(data.draw(st.integers(0, 6)), "more")
    assert reordered(words, swapped)


@pytest.mark.parametrize(
    ("one", "other"),
    [("who have eaten sharks", "who are eaten sharks"), ("who have eaten them", "who have been eaten them")],
)
def test_to_do_is_not_to_be_done_to(one: str, other: str) -> None:
    assert in_another_voice(one.split(), other.split())
