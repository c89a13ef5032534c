"""Near pairs: exactly those that a comparison of all with all finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.reuse.embed import HashEmbedder
from serving.reuse.neighbours import BLOCK_ROWS, near_pairs

TEXTS = st.lists(st.text("ab ", max_size=12), min_size=1, max_size=25)


@settings(deadline=None)  # the first example pays for the import of faiss
@given(TEXTS, st.data(), st.floats(0.1, 1.0))
def test_the_pairs_are_those_of_all_against_all(texts: list[str], data: st.DataObject, least: float) -> None:
    groups = [data.draw(st.sampled_from("xy")) for _ in texts]
    vectors = HashEmbedder(16).embed(texts)
    cosine = vectors @ vectors.T
    # What lies within rounding of the threshold may fall on either side.
    sure, possible = (
        {
            (i, j)
            for i in range(len(texts))
            for j in range(i + 1, len(texts))
            if groups[i] == groups[j] and cosine[i, j] >= least + margin
        }
        for margin in (1e-5, -1e-5)
    )
    found = {(i, j) for i, j, _ in near_pairs(vectors, groups, least)}
    assert sure <= found <= possible


def test_equal_texts_are_at_one_and_never_above() -> None:
    [(left, right, similarity)] = near_pairs(HashEmbedder().embed(["a b c", "a b c"]), ["g", "g"], 1.0)
    assert (left, right) == (0, 1)
    assert 1.0 - 1e-6 <= similarity <= 1.0


def test_no_pair_crosses_two_groups() -> None:
    assert near_pairs(HashEmbedder().embed(["a b c", "a b c"]), ["g", "h"], 0.5) == []


def test_the_threshold_itself_counts() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)  # cosine 0.6
    assert [pair[:2] for pair in near_pairs(vectors, ["g", "g"], 0.6)] == [(0, 1)]


def test_no_rows_give_no_pairs() -> None:
    assert near_pairs(HashEmbedder().embed([]), [], 0.5) == []


@pytest.mark.parametrize("pair", [(0, 1), (0, BLOCK_ROWS + 1), (BLOCK_ROWS, BLOCK_ROWS + 1)])
def test_a_pair_is_found_in_whichever_blocks_of_queries_it_lies(pair: tuple[int, int]) -> None:
    # Two rows more than a block holds, on three quarters of a circle; but for the pair, no two are as near.
    angles = np.radians(np.linspace(0, 270, BLOCK_ROWS + 2))
    angles[pair[1]] = angles[pair[0]] = np.radians(-45)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert [found[:2] for found in near_pairs(vectors, ["g"] * len(vectors), 0.9999999)] == [pair]


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
