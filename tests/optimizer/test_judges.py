"""Judges: what each takes for the same answer, and what not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.judges import JUDGES

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
    ("numeric", "1e3", "1,000"),
    ("numeric", "3/4", "It is 0.75"),
    ("numeric", "50 %", "50 percent"),
    ("numeric", "-$3.50", "a loss of $-3.5"),
    ("numeric", "**5** apples", r"\boxed{5}"),
    ("numeric", "5kg", "5 kg"),
    ("numeric", "$18 every day", "$18 per day"),
    ("numeric", "<answer>7</answer>", "x = 7"),
    ("multiple-choice", "**B**", "option B"),
    ("multiple-choice", "The answer is A because of it", r"\boxed{\text{A}}"),
    ("multiple-choice", "Option A is wrong. The answer is C", "C. Rome"),
    ("json-equal", "NaN", "NaN"),
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
    ("numeric", "1,5", "15"),
    ("numeric", "1,5", "1.5"),
    ("numeric", "-3", "3"),
    ("numeric", "- 3", "3"),
    ("numeric", "minus 3", "3"),
    ("numeric", "-$3", "$3"),
    ("numeric", "5 - 3", "4 - 3"),
    ("numeric", "50%", "50"),
    ("numeric", "50%", "0.5"),
    ("numeric", "5 per cent", "5 percentage points"),
    ("numeric", "3/4", "1/4"),
    ("numeric", r"\frac{3}{4}", r"\frac{1}{4}"),
    ("numeric", "2 1/2", "3 1/2"),
    ("numeric", "5 and a half", "5"),
    ("numeric", "1 000", "2 000"),
    ("numeric", "1.234.567", "9.234.567"),
    ("numeric", "10^5", "2^5"),
    ("numeric", "10³", "10"),
    ("numeric", "2√3", "3"),
    ("numeric", "2+3i", "5+3i"),
    ("numeric", "2020-05-12", "2019-05-12"),
    ("numeric", "10:30", "9:30"),
    ("numeric", "3, 5", "4, 5"),
    ("numeric", "between 3 and 5", "5"),
    ("numeric", "not 5", "5"),
    ("numeric", "less than 5", "5"),
    ("numeric", "~5", "5"),
    ("numeric", "B12", "C12"),
    ("numeric", "5 kg", "5 g"),
    ("numeric", "$5", "€5"),
    ("numeric", "5 million", "5"),
    ("numeric", "5M", "5"),
    ("normalised", ".5", "5"),
    ("multiple-choice", "A dog is", "A cat is"),
    ("multiple-choice", "A dog is", "A"),
    ("multiple-choice", "The answer is a dog", "A"),
    ("multiple-choice", "I think B", "I think C"),
    ("multiple-choice", "I, too, say B", "I, too, say C"),
    ("multiple-choice", "A: Paris", "A: London"),
    ("multiple-choice", "A, B", "A"),
    ("multiple-choice", "The answer is A and B", "A"),
    ("multiple-choice", "A) Paris\nB) Rome", "A) Paris"),
    ("multiple-choice", "B) is incorrect", "B"),
    ("multiple-choice", "The answer is not B", "B"),
    ("multiple-choice", "C++ is", "C"),
    ("json-equal", '{"a": 1, "a": 2}', '{"a": 2}'),
    ("json-equal", "1e99999999999999999999", "1e99999999999999999998"),
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


texts = (
    st.text() | st.text("0123456789 .,-+/%$^e()ABIa\n") | st.sampled_from([text for _, *two in SAME for text in two])
)


@given(st.sampled_from(sorted(JUDGES)), texts)
def test_every_judge_takes_a_text_for_itself(judge: str, text: str) -> None:
    assert JUDGES[judge](text, text)


@given(st.sampled_from(sorted(JUDGES)), texts, texts)
def test_no_judge_minds_the_order(judge: str, one: str, other: str) -> None:
    assert JUDGES[judge](one, other) == JUDGES[judge](other, one)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_the_same_answer_if_they_are_equal(one: int, other: int) -> None:
    assert JUDGES["numeric"](f"So it is {one:,}.", f"{other}.0") == (one == other)


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"))
def test_letters_are_the_same_answer_if_they_are_equal(one: str, other: str) -> None:
    assert JUDGES["multiple-choice"](f"The answer is {one}.", f"({other.lower()})") == (one == other)


@pytest.mark.parametrize("judge", sorted(JUDGES))
@pytest.mark.parametrize(
    "unit",
    ["\n", " ", "1", "1.", "1,", ".", '"', "B) ", 'B"', "answer ", "the answer is\n", "<a", "[", "-", "$", "A, "],
)
def test_a_model_that_repeats_itself_is_judged_at_once(judge: str, unit: str) -> None:
    """Quadratic searches would take minutes."""
    for text in (unit * 20_000, f"answer{unit * 20_000}x", f"B{unit * 20_000}x", f"{unit * 20_000}5"):
        began = time.process_time()
        assert JUDGES[judge](text, text)
        assert not JUDGES[judge](text, "something else")
        assert time.process_time() - began < 2.0
