"""Judges: what each takes for the same answer, and what not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.judges import JUDGES, agree

SAME = [
    ("exact", "Paris", "Paris"),
    ("normalised", " Paris.\n", "paris"),
    ("normalised", "It is  the\nSeine", "it is the seine"),
    ("normalised", "cafe\u0301", "caf\u00e9"),
    ("numeric", "so it is 1,234.50", "1234.5"),
    ("numeric", "3 apples and 4 pears make 7", "The answer is 7.0"),
    ("numeric", "\u22125", "-5"),
    ("numeric", "none at all", "None at all."),
    ("multiple-choice", "B", "(b) Paris"),
    ("multiple-choice", "The answer is C.", "C) because"),
    ("multiple-choice", "Answer: d", "D"),
    ("json-equal", '{"a": 1, "b": [1.0, null]}', '{"b":[1,null],"a":1}'),
    ("json-equal", "not json", "not json"),
]
OTHER = [
    ("exact", "Paris", "paris"),
    ("normalised", "on", "off"),
    ("normalised", "5 kg", "5 g"),
    ("numeric", "7", "8"),
    ("numeric", "7", "seven"),
    ("numeric", "no number", "another text"),
    ("multiple-choice", "A", "B"),
    ("multiple-choice", "A", "none of these"),
    ("multiple-choice", "Apples", "Bread"),
    ("json-equal", '{"a": 1}', '{"a": true}'),
    ("json-equal", '{"a": [1, 2]}', '{"a": [2, 1]}'),
    ("json-equal", '{"a": 1}', "a: 1"),
]


@pytest.mark.parametrize(("judge", "one", "other"), SAME)
def test_these_are_the_same_answer(judge: str, one: str, other: str) -> None:
    assert JUDGES[judge](one, other)


@pytest.mark.parametrize(("judge", "one", "other"), OTHER)
def test_these_are_not(judge: str, one: str, other: str) -> None:
    assert not JUDGES[judge](one, other)


@given(st.sampled_from(sorted(JUDGES)), st.text())
def test_every_judge_takes_a_text_for_itself(judge: str, text: str) -> None:
    assert JUDGES[judge](text, text)


@given(st.sampled_from(sorted(JUDGES)), st.text(), st.text())
def test_no_judge_minds_the_order(judge: str, one: str, other: str) -> None:
    assert JUDGES[judge](one, other) == JUDGES[judge](other, one)


def test_of_several_answers_each_must_agree() -> None:
    assert agree("exact", ["a", "b"], ["a", "b"])
    assert not agree("exact", ["a", "b"], ["b", "a"])
    assert not agree("exact", ["a"], ["a", "a"])
