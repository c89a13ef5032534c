"""The neighbours of rows too many to compare all with all: each row is compared with those in the lists nearest to it.

What FAISS calls IVF-Flat, list by list rather than query by query, so that the vectors are never copied as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.reuse.nearest import BLOCK_ROWS, SLACK, Nearest, Places, Tick, VectorRows

QUERIES = 1_000  # rows whose nearest is looked for among all: so many to choose by, and as many others to measure by
ENOUGH = 0.99  # of the chosen-by rows find their nearest in the lists that are looked at
MOST_LISTS = 32  # that are looked at for a row, whatever that finds
LISTS_PER_ROOT = 2.0  # times the root of the rows, so many lists there are
TRAINING_ROWS = 40  # for each list
TURNS = 10  # of k-means
SEED = 1
SORTED_LISTS = 64  # whose visitors are sorted out at once

Lists = NDArray[np.uint16]  # (rows, lists looked at), the nearest first: that is where a row stands itself


@dataclass(frozen=True, slots=True)
class Recall:
    """Of `asked` rows, drawn among those that have a neighbour, the search found the nearest of `found`."""

    asked: int = 0
    found: int = 0
    lists: int = 0  # most that were looked at for a row; 0 where all were compared with all

    def __add__(self, other: "Recall") -> "Recall":
        return Recall(self.asked + other.asked, self.found + other.found, max(self.lists, other.lists))

    def to_facts(self) -> dict[str, Any]:
        return {"lists": self.lists, "asked": self.asked, "found": self.found}


def compare_by_lists(vectors: VectorRows, places: Places, span: tuple[int, int], found: Nearest, tick: Tick) -> Recall:
    """Among the rows of a span, which are one group."""
    first, group = span[0], places[slice(*span)]
    generator = np.random.default_rng(SEED)
    queries = generator.permutation(len(group))[: 2 * QUERIES]
    nearest, similarity = _exhaustively(vectors, group, queries, tick)
    has_one = similarity > found.floor
    choosing = has_one & (np.arange(len(queries)) < len(queries) // 2)
    centroids = _centroids(vectors, group, generator)
    looked_at = _enough_lists(vectors, centroids, group[queries[choosing]], group[nearest[choosing]])
    lists = _assigned(vectors, centroids, group, looked_at, tick)
    for members, visitors in _by_list(lists, len(centroids)):
        for other in _blocks(members):
            their = vectors[group[other]]
            for rows in _blocks(visitors):
                tick()
                products = vectors[group[rows]] @ their.T
                _, row, column = np.intersect1d(rows, other, assume_unique=True, return_indices=True)
                products[row, column] = -np.inf  # nobody is a neighbour of itself
                found.offer(first + rows, first + other, products)
    measured = has_one & ~choosing
    hits = found.best(first + queries[measured]) >= similarity[measured] - SLACK
    return Recall(int(measured.sum()), int(hits.sum()), looked_at)


def _exhaustively(
    vectors: VectorRows, group: Places, queries: Places, tick: Tick
) -> tuple[Places, NDArray[np.float32]]:
    """The nearest of each query among all of the group, and how near it is."""
    own = vectors[group[queries]]
    nearest, similarity = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    for others in _blocks(np.arange(len(group))):
        tick()
        products = own @ vectors[group[others]].T
        here = np.flatnonzero((queries >= others[0]) & (queries <= others[-1]))
        products[here, queries[here] - others[0]] = -np.inf
        best = products.argmax(axis=1)
        value = products[np.arange(len(queries)), best]
        closer = value > similarity
        nearest[closer], similarity[closer] = others[best[closer]], value[closer]
    return nearest, similarity


def _centroids(vectors: VectorRows, group: Places, generator: np.random.Generator) -> NDArray[np.float32]:
    import faiss

    lists = min(np.iinfo(np.uint16).max, max(1, round(LISTS_PER_ROOT * len(group) ** 0.5)))
    training = np.sort(generator.permutation(len(group))[: lists * TRAINING_ROWS])
    settings = {"niter": TURNS, "spherical": True, "seed": SEED, "min_points_per_centroid": 1}
    means = faiss.Kmeans(vectors.shape[1], lists, **settings)
    means.train(vectors[group[training]])
    return np.asarray(means.centroids, np.float32)


def _nearest_lists(vectors: NDArray[np.float32], centroids: NDArray[np.float32], lists: int) -> NDArray[np.int64]:
    import faiss

    found: NDArray[np.int64] = faiss.knn(vectors, centroids, lists, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return found


def _enough_lists(vectors: VectorRows, centroids: NDArray[np.float32], queries: Places, nearest: Places) -> int:
    """How many lists a row must be looked for in so that ENOUGH of the queries find their nearest."""
    most = min(MOST_LISTS, len(centroids))
    if not len(queries):
        return most
    [own] = _nearest_lists(vectors[nearest], centroids, 1).T
    at = _nearest_lists(vectors[queries], centroids, most) == own[:, None]
    turn = np.where(at.any(axis=1), at.argmax(axis=1), most - 1)
    return int(np.sort(turn)[int(np.ceil(ENOUGH * len(turn))) - 1]) + 1


def _assigned(vectors: VectorRows, centroids: NDArray[np.float32], group: Places, looked_at: int, tick: Tick) -> Lists:
    lists = np.empty((len(group), looked_at), np.uint16)
    for rows in _blocks(np.arange(len(group))):
        tick()
        lists[rows] = _nearest_lists(vectors[group[rows]], centroids, looked_at)
    return lists


def _by_list(lists: Lists, count: int) -> Iterator[tuple[Places, Places]]:
    """Of each list that holds a row: the rows that stand in it, and all that look at it, each in order."""
    for start in range(0, count, SORTED_LISTS):
        row, turn = np.nonzero((lists >= start) & (lists < start + SORTED_LISTS))
        which = lists[row, turn]
        order = np.argsort(which, kind="stable")
        row, turn, which = row[order], turn[order], which[order]
        ends = np.searchsorted(which, np.arange(start, start + SORTED_LISTS + 1))
        for begin, end in pairwise(ends):
            members = row[begin:end][turn[begin:end] == 0]
            if len(members):
                yield members, row[begin:end]


def _blocks(rows: Places) -> Iterator[Places]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]
