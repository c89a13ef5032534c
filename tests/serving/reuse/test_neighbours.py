"""Near pairs: of each row its nearest, by a comparison of all with all; in large groups by one with some of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.reuse import inverted_lists, nearest, neighbours
from serving.reuse.embed import HashEmbedder, Vectors
from serving.reuse.inverted_lists import Recall
from serving.reuse.nearest import BLOCK_ROWS
from serving.reuse.neighbours import NearPairs, near_pairs
from serving.reuse.vectors import MadeBy, VectorStore

TEXTS = st.lists(st.text("ab ", max_size=12), min_size=1, max_size=25)
MARGIN = 1e-5  # what lies within rounding of a limit may fall on either side
Pairs = dict[tuple[int, int], float]


def pairs_of(near: NearPairs) -> Pairs:
    both = zip(near.left.tolist(), near.right.tolist(), strict=True)
    return dict(zip(both, near.similarity.tolist(), strict=True))


def joined(vectors: Vectors, least: float, groups: list[int] | None = None, most: int = 16) -> Pairs:
    near = near_pairs(vectors, np.arange(len(vectors)), np.array(groups or [0] * len(vectors), np.int64), least, most)
    found = pairs_of(near)
    assert len(found) == len(near.left), "no pair is told twice"
    return found


@settings(deadline=None)  # the first example pays for the import of faiss
@given(TEXTS, st.data(), st.floats(0.1, 1.0))
def test_with_room_for_all_the_pairs_are_those_of_all_against_all(
    texts: list[str], data: st.DataObject, least: float
) -> None:
    groups = [data.draw(st.sampled_from([0, 7])) for _ in texts]
    vectors = HashEmbedder(16).embed(texts)
    cosine = vectors @ vectors.T
    sure, possible = (
        {
            (i, j)
            for i in range(len(texts))
            for j in range(i + 1, len(texts))
            if groups[i] == groups[j] and cosine[i, j] >= least + margin
        }
        for margin in (MARGIN, -MARGIN)
    )
    assert sure <= joined(vectors, least, groups, most=25).keys() <= possible


@settings(deadline=None)
@given(TEXTS, st.integers(1, 5), st.floats(0.1, 1.0))
def test_a_row_has_its_nearest_and_only_those_or_rows_whose_nearest_it_is(
    texts: list[str], most: int, least: float
) -> None:
    vectors = HashEmbedder(16).embed(texts)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1)
    found = joined(vectors, least, most=most)
    for i, j in found:
        assert i < j
        assert min((cosine[row] > cosine[i, j] + MARGIN).sum() for row in (i, j)) < most
    times = Counter(row for pair in found for row in pair)
    for row, similar in enumerate(cosine):
        assert times[row] >= min(most, (similar >= least + MARGIN).sum())
        nearest_told = sorted((found[pair] for pair in found if row in pair), reverse=True)
        nearest_there = np.sort(similar)[::-1]
        for told, there in zip(nearest_told[:most], nearest_there, strict=False):
            assert told == pytest.approx(there, abs=MARGIN)


@settings(deadline=None)
@given(TEXTS, st.floats(0.0, 1.0))
def test_a_threshold_keeps_exactly_what_reaches_it(texts: list[str], least: float) -> None:
    vectors = HashEmbedder(16).embed(texts)
    every = joined(vectors, 0.0, most=25)
    assert joined(vectors, least, most=25) == {pair: value for pair, value in every.items() if value >= least}


def test_identical_is_one_and_orthogonal_is_nought() -> None:
    vectors = HashEmbedder().embed(["a b c", "a b c", "d e f"])
    assert joined(vectors, 0.0) == {(0, 1): 1.0, (0, 2): 0.0, (1, 2): 0.0}


def test_no_pair_crosses_two_groups() -> None:
    assert joined(HashEmbedder().embed(["a b c", "a b c"]), 0.5, [0, 1]) == {}


def test_the_threshold_itself_counts() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    assert joined(vectors, 0.6) == {(0, 1): 0.6}


def test_no_rows_give_no_pairs() -> None:
    assert joined(HashEmbedder().embed([]), 0.5) == {}


def test_rows_share_a_vector_where_their_texts_are_equal() -> None:
    vectors = np.eye(2, dtype=np.float32)
    near = near_pairs(vectors, np.array([1, 0, 1, 1]), np.array([5, 5, 5, 9]), 0.5)
    assert pairs_of(near) == {(0, 2): 1.0}


@pytest.mark.parametrize("pair", [(0, 1), (0, BLOCK_ROWS + 1), (BLOCK_ROWS, BLOCK_ROWS + 1)])
def test_a_pair_is_found_in_whichever_blocks_it_lies(pair: tuple[int, int]) -> None:
    # Two rows more than a block holds, on three quarters of a circle; but for the pair, no two are as near.
    angles = np.radians(np.linspace(0, 270, BLOCK_ROWS + 2))
    angles[pair[1]] = angles[pair[0]] = np.radians(-45)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert joined(vectors, 1.0).keys() == {pair}


@settings(deadline=None)
@given(TEXTS, st.data(), st.integers(1, 4), st.integers(1, 5))
def test_pairs_do_not_depend_on_how_rows_are_cut_into_blocks(
    texts: list[str], data: st.DataObject, most: int, block_rows: int
) -> None:
    groups = [data.draw(st.integers(0, 3)) for _ in texts]
    # Of equal ones any may be the nearest, so that all vectors are a little apart.
    noise = np.random.default_rng(len(texts)).normal(0, 0.01, (len(texts), 16))
    vectors = (HashEmbedder(16).embed(texts) + noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = joined(vectors, 0.5, groups, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK_ROWS", block_rows)
        patch.setattr(nearest, "SCORED_ROWS", block_rows)
        assert joined(vectors, 0.5, groups, most) == whole


def test_a_search_ends_when_it_is_told_to() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        near_pairs(HashEmbedder().embed(["a", "a"]), np.arange(2), np.zeros(2, np.int64), 0.5, tick=stop)


def clustered(rows: int, dim: int = 32) -> Vectors:
    """Rows around 20 points, of which each even one has the odd one after it near."""
    generator = np.random.default_rng(rows)
    centres = generator.standard_normal((20, dim))
    vectors = centres[generator.integers(0, 20, rows)] + generator.standard_normal((rows, dim))
    vectors[1::2] = vectors[: rows - 1 : 2] + 0.1 * generator.standard_normal((rows // 2, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of more than a hundred rows are large ones."""
    monkeypatch.setattr(neighbours, "FLAT_ROWS", 100)
    monkeypatch.setattr(inverted_lists, "BLOCK_ROWS", 37)
    monkeypatch.setattr(inverted_lists, "SORTED_LISTS", 5)
    monkeypatch.setattr(inverted_lists, "QUERIES", 200)


def test_small_groups_are_searched_exactly_and_nothing_is_asked_again() -> None:
    near = near_pairs(clustered(600), np.arange(600), np.zeros(600, np.int64), 0.9)
    assert near.recall == Recall()


@pytest.mark.usefixtures("large")
def test_large_groups_find_what_a_comparison_of_all_finds_and_measure_how_much_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, places = clustered(700), np.arange(700)
    groups = np.where(places < 600, 3, 1)  # a large one and, of as many as are still compared all with all, a small one
    near = near_pairs(vectors, places, groups, 0.9)
    monkeypatch.setattr(neighbours, "FLAT_ROWS", 1000)
    exact = pairs_of(near_pairs(vectors, places, groups, 0.9))
    found = pairs_of(near)
    assert found.items() <= exact.items(), "scores are exact, whatever was missed"
    assert len(found) >= 0.97 * len(exact)
    assert 0.97 * near.recall.asked <= near.recall.found <= near.recall.asked
    assert 0 < near.recall.asked <= 200
    assert 1 <= near.recall.lists <= inverted_lists.MOST_LISTS


@pytest.mark.usefixtures("large")
def test_the_recall_tells_when_too_few_lists_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((600, 8)).astype(np.float32)  # nothing lies in clusters
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(inverted_lists, "MOST_LISTS", 1)
    recall = near_pairs(vectors, np.arange(600), np.zeros(600, np.int64), 0.5).recall
    assert recall.lists == 1
    assert 0.2 < recall.found / recall.asked < 0.9


@pytest.mark.usefixtures("large")
def test_a_large_group_without_near_pairs_has_no_recall() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((300, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = near_pairs(vectors, np.arange(300), np.zeros(300, np.int64), 0.99)
    assert (len(near.left), near.recall.asked, near.recall.found) == (0, 0, 0)


@pytest.mark.parametrize("flat_rows", [100, 1000])
def test_vectors_on_disk_have_the_pairs_of_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat_rows: int
) -> None:
    monkeypatch.setattr(neighbours, "FLAT_ROWS", flat_rows)
    monkeypatch.setattr("serving.reuse.vectors.BLOCK_ROWS", 64)
    vectors, places, groups = clustered(300), np.arange(300), np.zeros(300, np.int64)
    store = VectorStore(tmp_path / "embed.json", np.arange(1200, dtype=np.uint64).reshape(300, 4), MadeBy("e", None))
    for start in range(0, 300, 50):
        store.append(vectors[start : start + 50])
    on_disk = near_pairs(store.open(), places, groups, 0.9)
    assert pairs_of(on_disk) == pairs_of(near_pairs(vectors, places, groups, 0.9))
