"""Which rows may share one answer: equal keys always, near ones by a star around a representative. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizer.vetoes import veto
from serving.records import Source


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that were compared. `veto` says why they may not share an answer; None if they may."""

    row: int
    other_row: int
    kind: Source
    similarity: float
    veto: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which row's engine run answers a row."""

    answered_by: int
    source: Source


def exact_representatives(keys: Iterable[tuple[int, str, bool]]) -> dict[int, int]:
    """The first row of each key, for every row given as (row, key, repeatable).

    A row that is drawn at random stands for itself: its duplicates asked for another draw, not for a copy.
    """
    first: dict[str, int] = {}
    return {row: first.setdefault(key, row) if repeatable else row for row, key, repeatable in keys}


def judge_pairs(near: Iterable[tuple[int, int, float]], texts: Mapping[int, str]) -> list[Pair]:
    """Every near pair (row, other row, cosine) with the veto that forbids it, if one does."""
    return [
        Pair(row, other, Source.SEMANTIC, similarity, veto(texts[row], texts[other])) for row, other, similarity in near
    ]


def star_cover(pairs: Sequence[Pair], weight: Mapping[int, int]) -> dict[int, int]:
    """A representative for each row that shares an answer, from the pairs without a veto.

    Stars, not connected components: every row is compared with its representative directly, since similarity does not
    chain (components at cosine 0.80 join rows at 0.53). Greedy by the weight that a star saves, which is within
    ln(n) of the best cover; the best is NP-hard.
    """
    neighbours: dict[int, set[int]] = defaultdict(set)
    opposed: dict[int, set[int]] = defaultdict(set)  # a veto holds through a third row as well
    for pair in pairs:
        side = neighbours if pair.veto is None else opposed
        side[pair.row].add(pair.other_row)
        side[pair.other_row].add(pair.row)
    served: dict[int, int] = {}
    centres: set[int] = set()
    for row in sorted(neighbours, key=lambda row: (-sum(weight[near] for near in neighbours[row]), row)):
        if row in served:
            continue
        centres.add(row)
        star: set[int] = set()
        for near in sorted(neighbours[row] - served.keys() - centres):
            if not opposed[near] & star:
                star.add(near)
                served[near] = row
    return served


def assign(exact: Mapping[int, int], semantic: Mapping[int, int]) -> dict[int, Assignment]:
    """For every row, the row whose run answers it. A duplicate follows its representative to that one's star."""
    return {row: _follow(row, first, semantic) for row, first in exact.items()}


def _follow(row: int, first: int, semantic: Mapping[int, int]) -> Assignment:
    if first in semantic:
        return Assignment(semantic[first], Source.SEMANTIC)
    return Assignment(first, Source.ENGINE if first == row else Source.EXACT)
