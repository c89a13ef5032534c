"""The nearest neighbours of every row that were found so far, and the pairs that they make."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.reuse.embed import Vectors

Places = NDArray[np.int64]
Tick = Callable[[], object]

DIGITS = 6  # of a cosine: what vectors in float32 can tell
SLACK = 1e-5  # by how much a product of matrices may miss the cosine that is computed pair by pair
BLOCK_ROWS = 2000  # that are multiplied with as many: no power of two, or their columns share cache lines
SCORED_ROWS = 512  # whose pairs are scored at once: with 16 neighbours each, two times 12 MiB


class VectorRows(Protocol):
    """Vectors of unit length, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, places: Places, /) -> Vectors: ...


class Nearest:
    """At most `most` neighbours of each row, none of them below `min_similarity`."""

    def __init__(self, rows: int, most: int, min_similarity: float) -> None:
        import faiss

        self._heaps = faiss.ResultHeap(rows, most, keep_max=True)
        self._min_similarity = min_similarity
        self.floor = min_similarity - SLACK  # what a neighbour has to beat, while there are fewer than `most`
        self._heaps.D[:] = self.floor

    def offer(self, rows: Places, others: Places, similarity: NDArray[np.float32]) -> None:
        """`similarity` has a row for each of `rows` and a column for each of `others`; a pair is offered once."""
        better = np.flatnonzero(similarity.max(axis=1) > self._heaps.D[rows, 0])
        if len(better):
            self._heaps.add_result_subset(rows[better], similarity[better], others)

    def best(self, rows: Places) -> NDArray[np.float32]:
        """The similarity of each one's nearest; -inf where it has none."""
        found: NDArray[np.float32] = np.where(self._heaps.I[rows] >= 0, self._heaps.D[rows], -np.inf).max(axis=1)
        return found

    def pairs(self, vectors: VectorRows, places: Places, tick: Tick) -> tuple[Places, Places, NDArray[np.float64]]:
        """(left, right, similarity), left < right, of rows of which one is among the other's nearest.

        The similarity is computed again for each pair alone, so that it depends on these two vectors and nothing else.
        """
        scored = [self._scored(vectors, places, start, tick) for start in range(0, len(places), SCORED_ROWS)]
        if not scored:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)
        left, right, similarity = (np.concatenate(column) for column in zip(*scored, strict=True))
        return left, right, similarity

    def _scored(self, vectors: VectorRows, places: Places, start: int, tick: Tick) -> tuple[Any, Any, Any]:
        tick()
        others = self._heaps.I[start : start + SCORED_ROWS]
        row, column = np.nonzero(others >= 0)
        other = others[row, column]
        told_twice = (self._heaps.I[other] == (start + row)[:, None]).any(axis=1) & (other < start + row)
        row, other = row[~told_twice], other[~told_twice]
        own = vectors[places[start : start + SCORED_ROWS]][row]
        similarity = np.einsum("ij,ij->i", own, vectors[places[other]], dtype=np.float64)
        similarity = np.minimum(np.round(similarity, DIGITS), 1.0)
        near = similarity >= self._min_similarity
        row, other = start + row[near], other[near]
        return np.minimum(row, other), np.maximum(row, other), similarity[near]
