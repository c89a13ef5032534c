"""How long answers will be, from those that are finished: quantiles of the prompts that begin alike."""

from typing import NamedTuple

import numpy as np

from optimizer.order.tree import Places, PrefixTree

UNKNOWN = -1
# A long answer that is fed late costs the whole lane its length, a short one that is fed early nothing.
QUANTILE = 0.9
LEAST_SEEN = 8  # finished answers that a quantile can be drawn from


class Quantiles(NamedTuple):
    groups: Places  # ascending
    seen: Places
    lengths: Places


def length_quantiles(groups: Places, lengths: Places, quantile: float = QUANTILE) -> Quantiles:
    """By group, the least observed length that at least this share of the group's does not pass."""
    order = np.lexsort((lengths, groups))
    found, first, seen = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.maximum(np.ceil(quantile * seen).astype(np.int64), 1) - 1
    return Quantiles(found, seen, lengths[order][first + rank])


def expected_output_tokens(
    tree: PrefixTree, max_tokens: Places, observed: Places, quantile: float = QUANTILE
) -> Places:
    """What each row is expected to put out: its own length where it is known, else the quantile of the smallest
    prefix group around it in which enough has finished, else `max_tokens`, which also caps it.

    `observed` has UNKNOWN where a row has not finished.
    """
    known = observed != UNKNOWN
    expected = np.where(known, observed, UNKNOWN)
    at = tree.node_of_row
    for level in reversed(range(int(tree.level.max()) + 1)):
        at = np.where(tree.level[at] > level, tree.parent[at], at)
        here = tree.level[at] == level
        groups, seen, lengths = length_quantiles(at[known & here], observed[known & here], quantile)
        groups, lengths = groups[seen >= LEAST_SEEN], lengths[seen >= LEAST_SEEN]
        if not len(groups):
            continue
        place = np.minimum(np.searchsorted(groups, at), len(groups) - 1)
        told = here & (expected == UNKNOWN) & (groups[place] == at)
        expected[told] = lengths[place[told]]
    expected[expected == UNKNOWN] = max_tokens[expected == UNKNOWN]
    capped: Places = np.minimum(expected, max_tokens)
    return capped
