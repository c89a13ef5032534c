"""In what order a template should name its columns, so that sorted rows begin alike for as long as they can.

Rows with the same values in the first j fields share all of them: with D_j different combinations among N rows, field j
is found in the cache in N - D_j of them. So an order is worth sum(length_j * (1 - D_j / N)), where D_j depends on which
fields stand before and not on their order: the best order is found field set by field set (Held and Karp 1962), and
greedily where there are too many sets. Liu et al. (arXiv 2403.05821) search for an order per row group instead
("greedy group recursion"); one order for all rows is what a template can say.

Changing the order changes every prompt, and may change answers. It is a proposal, never made unasked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import prod

MOST_FIELDS = 12  # 2^12 field sets; with more, greedily

Distinct = Callable[[frozenset[str]], float]  # how many different combinations of values these columns have


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    distinct: int  # different values
    mean_tokens: float  # of a value with its label


@dataclass(frozen=True, slots=True)
class Proposal:
    """Hit shares are of the tokens of the fields, with rows fed in prefix order and a cache that holds one path."""

    fields: tuple[str, ...]
    hit_share_before: float
    hit_share: float


def propose(columns: Sequence[Column], rows: int, distinct: Distinct | None = None) -> Proposal:
    """The best order of the columns; where it is no better than the template's own, that one.

    `distinct` counts combinations; without it columns are taken as independent, which undervalues columns of which one
    follows from the other.
    """
    counted = cache(distinct or independent(columns, rows))
    best = _by_sets if len(columns) <= MOST_FIELDS else _greedy
    given = tuple(column.name for column in columns)
    found = best(columns, rows, counted)
    before, after = (hit_share(columns, order, rows, counted) for order in (given, found))
    return Proposal(found, before, after) if after > before else Proposal(given, before, before)


def hit_share(columns: Sequence[Column], order: Sequence[str], rows: int, distinct: Distinct) -> float:
    tokens = {column.name: column.mean_tokens for column in columns}
    total = sum(tokens.values()) * rows
    hits = sum(tokens[name] * (rows - distinct(frozenset(order[: at + 1]))) for at, name in enumerate(order))
    return max(hits, 0.0) / total if total else 0.0


def independent(columns: Sequence[Column], rows: int) -> Distinct:
    """Combinations to expect among `rows` if columns were independent and their values equally frequent."""
    different = {column.name: column.distinct for column in columns}

    def expected(names: frozenset[str]) -> float:
        known = max(different[name] for name in names)
        possible = prod(different[name] for name in names)
        if len(names) == 1 or not known:
            return float(known)
        # With k possible combinations each is missed by all rows with probability (1 - 1/k)^rows.
        drawn = possible * (1.0 - (1.0 - 1.0 / possible) ** rows) if possible < rows**2 else float(rows)
        return max(drawn, float(known))

    return expected


def counted(values: Sequence[Mapping[str, str]]) -> Distinct:
    """Combinations as they are in these rows."""
    return lambda names: float(len({tuple(row[name] for name in sorted(names)) for row in values}))


def _by_sets(columns: Sequence[Column], rows: int, distinct: Distinct) -> tuple[str, ...]:
    tokens = {column.name: column.mean_tokens for column in columns}
    best: dict[frozenset[str], tuple[float, tuple[str, ...]]] = {frozenset(): (0.0, ())}
    for size in range(1, len(columns) + 1):
        for names in map(frozenset, combinations([column.name for column in columns], size)):
            missed = distinct(names)
            best[names] = max(
                (before + tokens[last] * (rows - missed), (*order, last))
                for last in names
                for before, order in [best[names - {last}]]
            )
    return best[frozenset(tokens)][1]


def _greedy(columns: Sequence[Column], rows: int, distinct: Distinct) -> tuple[str, ...]:
    order: tuple[str, ...] = ()
    left = {column.name: column.mean_tokens for column in columns}
    while left:
        seen = order
        name = max(left, key=lambda name: (left[name] * (rows - distinct(frozenset((*seen, name)))), name))
        order = (*order, name)
        del left[name]
    return order
