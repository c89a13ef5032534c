"""Which rows may share one answer: equal keys always, near ones by a star around a representative. Pure."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.likeness import Likeness, likeness
from optimizer.vetoes import veto
from serving.records import Source

Rows = NDArray[np.int64]  # row numbers; not contiguous, since refused rows have numbers too
Keys = NDArray[np.uint64]  # (rows, 4): a sha256 each
SOURCES = tuple(Source)
CROWD = 0.03  # of cosine: rows that are less apart than this are about as near
LEVELS = (0.97, 0.93, 0.88, -1.0)  # of sureness: a row joins a star of the first level in which it finds one
PER_WORD, PER_GENERIC_WORD = 0.03, 0.01  # of cosine, that a word which only one has makes a pair less sure
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that were compared. `veto` says why they may not share an answer; None if they may."""

    row: int
    other_row: int
    kind: Source
    similarity: float
    veto: str | None = None
    likeness: Likeness | None = None  # of one that may

    @property
    def sureness(self) -> float:
        """Before any answer is seen; it decides who represents whom, and no more."""
        if self.likeness is None:
            return self.similarity
        few = self.likeness.words_apart * PER_WORD + self.likeness.generic_apart * PER_GENERIC_WORD
        return self.similarity - few


@dataclass(frozen=True, slots=True, eq=False)
class Assignments:
    """Which row's engine run answers each row, place by place."""

    answered_by: Rows
    source: NDArray[np.int8]  # a place in SOURCES


def exact_representatives(rows: Rows, keys: Keys, repeatable: NDArray[np.bool_]) -> Rows:
    """For each row the first with the same key; all three tell of the same rows, place by place, `rows` ascending.

    A row that is drawn at random stands for itself: its duplicates asked for another draw, not for a copy.
    """
    first = rows.copy()
    places = np.flatnonzero(repeatable)
    keys = keys[places]
    by_key = np.lexsort(keys.T)  # stable: equal keys stay in the order of their rows
    keys = keys[by_key]
    begins = np.ones(len(places), np.bool_)  # all 256 bits are compared, so that no two keys are taken for one
    begins[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    begun_at = np.maximum.accumulate(np.where(begins, np.arange(len(places)), 0))
    first[places[by_key]] = rows[places[by_key[begun_at]]]
    return first


def first_equal(keys: Keys, among: Keys) -> Rows:
    """For each key the place of the first of `among` that equals it, or NOWHERE."""
    rows = np.arange(len(among) + len(keys))
    first = exact_representatives(rows, np.concatenate([among, keys]), np.ones(len(rows), np.bool_))[len(among) :]
    return np.where(first < len(among), first, NOWHERE)


def judge_pairs(near: Iterable[tuple[int, int, float]], texts: Mapping[int, str]) -> list[Pair]:
    """Every near pair (row, other row, cosine): with the veto that forbids it, or else with what is seen of it."""
    compared = list(near)
    around: dict[int, list[float]] = defaultdict(list)
    for row, other, similarity in compared:
        around[row].append(similarity)
        around[other].append(similarity)
    for similarities in around.values():
        similarities.sort()

    def crowd(row: int, similarity: float) -> int:
        return len(around[row]) - bisect_left(around[row], similarity - CROWD)

    found = []
    for row, other, similarity in compared:
        forbids, like = veto(texts[row], texts[other]), None
        if forbids is None:
            like = likeness(texts[row], texts[other], similarity, max(crowd(row, similarity), crowd(other, similarity)))
        found.append(Pair(row, other, Source.SEMANTIC, similarity, forbids, like))
    return found


def copies_of(pairs: Sequence[Pair], first: Rows) -> dict[int, int]:
    """For each row of a pair, how many rows are answered along with it; `first` are all rows' exact representatives."""
    compared = np.array(sorted({row for pair in pairs for row in (pair.row, pair.other_row)}), np.int64)
    found, copies = np.unique(first[np.isin(first, compared)], return_counts=True)
    return dict(zip(found.tolist(), copies.tolist(), strict=True))


def star_cover(pairs: Sequence[Pair], weight: Mapping[int, int]) -> dict[int, int]:
    """A representative for each row that shares an answer, from the pairs without a veto.

    Stars, not connected components: every row is compared with its representative directly, since similarity does not
    chain (components at cosine 0.80 join rows at 0.53). The surest pairs first, level by level, so that a row is not
    drawn into a large star that it fits worse. In a level greedy by the weight that a star saves, which is within ln(n)
    of the best cover; the best is NP-hard.
    """
    opposed: dict[int, set[int]] = defaultdict(set)  # a veto holds through a third row as well
    for pair in pairs:
        if pair.veto is not None:
            opposed[pair.row].add(pair.other_row)
            opposed[pair.other_row].add(pair.row)
    stars: dict[int, set[int]] = {}  # by representative
    served: dict[int, int] = {}
    allowed = [pair for pair in pairs if pair.veto is None]
    for level, above in zip(LEVELS, (float("inf"), *LEVELS), strict=False):
        neighbours: dict[int, set[int]] = defaultdict(set)
        for pair in allowed:
            if level <= pair.sureness < above:
                neighbours[pair.row].add(pair.other_row)
                neighbours[pair.other_row].add(pair.row)
        for row in sorted(neighbours, key=lambda row: (-sum(weight[near] for near in neighbours[row]), row)):
            if row in served:
                continue
            star = stars.get(row, set())
            free = (near for near in neighbours[row] if near not in served and near not in stars)
            for near in sorted(free):
                if not opposed[near] & star:
                    star.add(near)
                    served[near] = row
            if star:
                stars[row] = star
    return served


def assign(rows: Rows, first: Rows, served: Mapping[int, int]) -> Assignments:
    """For every row, the row whose run answers it. A duplicate follows its representative to that one's star.

    `first` are the rows' exact representatives, `served` says which of these a near-duplicate answers.
    """
    answered_by = first.copy()
    source = np.where(first == rows, SOURCES.index(Source.ENGINE), SOURCES.index(Source.EXACT)).astype(np.int8)
    near = np.array(sorted(served), np.int64)
    centres = np.array([served[row] for row in sorted(served)], np.int64)
    places = np.flatnonzero(np.isin(first, near))
    answered_by[places] = centres[np.searchsorted(near, first[places])]
    source[places] = SOURCES.index(Source.SEMANTIC)
    return Assignments(answered_by, source)
