"""Polarity: what turns an answer round or limits it, and words that negate each other."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optimizer.differences.polarity import NEGATING, opposed

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=12)


@given(WORDS, st.sampled_from(NEGATING), st.sampled_from(["is it {}", "the {} one, please", "{}"]))
def test_a_word_opposes_its_negation(word: str, prefix: str, frame: str) -> None:
    assume(word not in frame and prefix + word not in frame)
    one, other = frame.format(word), frame.format(prefix + word)
    assert opposed(one, other)
    assert opposed(other, one)


@given(WORDS)
def test_full_of_it_opposes_being_without(stem: str) -> None:
    assert opposed(f"is it {stem}ful", f"is it {stem}less")
    assert opposed(f"is it {stem}", f"is it {stem}less")


@given(st.text())
def test_no_text_opposes_itself(text: str) -> None:
    assert not opposed(text, text)


@given(st.text(), st.text())
def test_opposition_is_mutual(one: str, other: str) -> None:
    assert opposed(one, other) == opposed(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("do few people vote", "do a few people vote"),
        ("can I live on just rice", "can I live on rice"),
        ("the smokers", "the non-smokers"),
        ("a sugar cake", "a sugar-free cake"),
        ("is it finished", "is it almost finished"),
        ("das ist gut", "das ist nicht gut"),
    ],
)
def test_what_limits_or_negates_is_seen(one: str, other: str) -> None:
    assert opposed(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("why can't I see it", "why cannot I see it"),
        ("why don't they burn", "why do they not burn"),
        ("I just want to know it", "I want to know it"),
        ("just tell me", "tell me"),
        ("solely on rice", "only on rice"),
    ],
)
def test_the_same_said_otherwise_is_not_opposed(one: str, other: str) -> None:
    assert not opposed(one, other)
