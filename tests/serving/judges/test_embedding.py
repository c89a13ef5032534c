"""Judging by meaning: a cosine decides, but not over what the embedder does not see."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.judges.embedding import EmbeddingJudge
from serving.records import Comparison
from serving.reuse.embed import HashEmbedder, Vectors


class Counting(HashEmbedder):
    """Sees no more than 40 characters of a text, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        return super().embed([text[:40] for text in texts])

    def truncates(self, text: str) -> bool:
        return len(text) > 40


def agree(*pairs: tuple[str, str], min_similarity: float = 0.7) -> list[bool]:
    return EmbeddingJudge(Counting(), min_similarity).agree([Comparison(0, *pair) for pair in pairs])


def test_answers_agree_from_the_cosine_on() -> None:
    near, far = ("the sky is blue", "the sky is so blue"), ("the sky is blue", "grass grows")
    assert agree(near, far) == [True, False]
    assert agree(near, far, min_similarity=0.99) == [False, False]


def test_an_answer_that_is_not_seen_whole_agrees_with_its_equal_alone() -> None:
    long = "the sky is blue " * 5
    assert agree((long, long), (long, long + "not"), (long + "not", long)) == [True, False, False]


def test_each_text_is_embedded_once_and_all_at_one_time() -> None:
    embedder = Counting()
    pairs = [("a b", "a c"), ("a c", "a b"), ("a d", "a b"), ("same", "same")]
    EmbeddingJudge(embedder, 0.9).agree([Comparison(0, *pair) for pair in pairs])
    assert embedder.asked == [["a b", "a c", "a d"]]


def test_nothing_is_embedded_where_nothing_is_open() -> None:
    embedder = Counting()
    assert EmbeddingJudge(embedder, 0.9).agree([]) == []
    assert EmbeddingJudge(embedder, 0.9).agree([Comparison(0, "x", "x")]) == [True]
    assert embedder.asked == []


answers = st.text("ab ", max_size=12)


@given(st.lists(st.tuples(answers, answers)), st.floats(0.01, 1))
def test_it_minds_neither_order_nor_company(pairs: list[tuple[str, str]], min_similarity: float) -> None:
    told = agree(*pairs, min_similarity=min_similarity)
    assert told == agree(*(pair[::-1] for pair in pairs), min_similarity=min_similarity)
    assert told == [agree(pair, min_similarity=min_similarity)[0] for pair in pairs]
    assert all(same for same, (one, other) in zip(told, pairs, strict=True) if one == other)


def test_a_cosine_that_is_no_number_agrees_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "embed", lambda self, texts: np.full((len(texts), 2), np.nan, np.float32))
    assert agree(("a", "b"), ("a", "a")) == [False, True]
