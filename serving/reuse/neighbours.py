"""Which texts lie near each other: of each its nearest neighbours, among those of its own group."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.reuse.inverted_lists import Recall, compare_by_lists
from serving.reuse.nearest import BLOCK_ROWS, Nearest, Places, Tick, VectorRows

MOST_NEIGHBOURS = 16  # of a row: prompts of one template have hundreds, and each is compared with one in the end
FLAT_ROWS = 200_000  # of a group, up to which all are compared with all; two cores take some minutes for that


@dataclass(frozen=True, slots=True, eq=False)
class NearPairs:
    """Place by place: rows `left` < `right`, and the cosine of their vectors to six digits."""

    left: Places
    right: Places
    similarity: NDArray[np.float64]
    recall: Recall


def near_pairs(
    vectors: VectorRows,
    places: Places,
    groups: Places,
    min_similarity: float,
    most: int = MOST_NEIGHBOURS,
    tick: Tick = lambda: None,
) -> NearPairs:
    """Every pair of one group, at least `min_similarity` alike, of which one is among the other's `most` nearest.

    Row by row, `places` says which of the vectors it has and `groups` which group it is in. Exact for groups of up to
    FLAT_ROWS; in larger ones neighbours can be missed, and the recall says how many. `tick` is called between blocks,
    and ends the search if it raises.
    """
    _, group, rows_of = np.unique(groups, return_inverse=True, return_counts=True)
    large = rows_of[group] > FLAT_ROWS
    order = np.lexsort((group, large))  # rows of a group stand together, in their order; the large groups are last
    group, places = group[order], places[order]
    found, recall = Nearest(len(order), most, min_similarity), Recall()
    end = len(order) - int(large.sum())
    _compare_all(vectors, places[:end], group[:end], found, tick)
    for rows in rows_of[rows_of > FLAT_ROWS]:
        start, end = end, end + int(rows)
        recall += compare_by_lists(vectors, places, (start, end), found, tick)
    left, right, similarity = found.pairs(vectors, places, tick)
    left, right = order[left], order[right]
    by_row = np.lexsort((right, left))
    return NearPairs(left[by_row], right[by_row], similarity[by_row], recall)


def _compare_all(vectors: VectorRows, places: Places, group: Places, found: Nearest, tick: Tick) -> None:
    """Block by block, each two once: what a block is to another, that one is to it."""
    ends = np.searchsorted(group, group, side="right")  # of each row's group
    for start in range(0, len(group), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(group)))
        own, end = vectors[places[rows]], ends[rows[-1]]
        for other in range(start, end, BLOCK_ROWS):
            tick()
            others = np.arange(other, min(other + BLOCK_ROWS, end))
            similarity = own @ vectors[places[others]].T
            if group[start] != group[others[-1]]:
                similarity[group[rows][:, None] != group[others]] = -np.inf
            if other == start:
                np.fill_diagonal(similarity, -np.inf)
            else:
                found.offer(others, rows, similarity.T)
            found.offer(rows, others, similarity)
