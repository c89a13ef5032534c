"""Embedders: unit rows, the same for the same text; the double needs no model."""

import numpy as np
import pytest

from serving.reuse.embed import HashEmbedder


@pytest.mark.parametrize("texts", [[], ["one"], ["one", "two words", ""]])
def test_embeddings_are_float32_rows_of_unit_length(texts: list[str]) -> None:
    vectors = HashEmbedder(64).embed(texts)
    assert (vectors.shape, vectors.dtype) == ((len(texts), 64), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)


def test_the_double_embeds_the_same_text_the_same_way() -> None:
    one, other = (HashEmbedder().embed(["The cat sat"]) for _ in range(2))
    assert (one == other).all()


def test_the_double_sees_whole_texts() -> None:
    assert not HashEmbedder().truncates("word " * 10_000)
    assert HashEmbedder().max_seq_length is None
