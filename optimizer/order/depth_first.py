"""Prefix groups kept together, and among all orders that keep them, the one that bounds the end of the lane best.

An engine with m slots takes the next prompt whenever a slot is free: list scheduling. All slots are full until the
last prompt starts, so prompt k starts by (work before k) / m and ends by

    E_k = (work before k) / m + p_k          p: output tokens, which are the steps that a slot is held

and the makespan is at most max E_k; with the longest first that is within 4/3 of the best (Graham 1969, "Bounds on
multiprocessing timing anomalies"), and no order ends before max(work / m, longest p).

A subtree that is kept together acts on the others by two numbers: its work W, and F = max E_k within it, counted from
its own start. A node's children in the order c1, c2, ... have F = max(W_c1/m + ... + W_ci-1/m + F_ci). That is one
machine with jobs of W/m and tails of F - W/m, for which the order of descending tails is optimal (Jackson 1955;
Lawler 1973 for the exchange). It is optimal at each node whatever stands around it, as a smaller F is never worse
outside. So sorting children by F - W/m, deepest nodes first, minimises the bound over all depth-first orders.
For single prompts F - W/m = p (1 - 1/m): longest first. A group with one long answer and much short work behind it
comes late, and one that is all long comes early, which ordering groups by their longest answer would not do.

Any depth-first order finds in a small prefix cache all that an unbounded one holds: what a prompt shares with any one
before it, it shares with the one just before it.
"""

import numpy as np

from optimizer.order.tree import Places, PrefixTree


def depth_first(tree: PrefixTree, output_tokens: Places, slots: int) -> Places:
    """The places of the tree's rows; where nothing tells two apart, the one that arrived first comes first."""
    rows, nodes = len(tree.node_of_row), len(tree.parent)
    row_offset, node_offset = np.zeros(rows, np.int64), np.zeros(nodes, np.int64)
    work, ends, arrived, size = (np.zeros(nodes, np.int64) for _ in range(4))  # ends: m times F
    by_level = tree.nodes_by_level()
    rows_by_level = _rows_by_level(tree, len(by_level))
    for level in reversed(range(len(by_level))):
        single = rows_by_level[level]
        below = by_level[level + 1] if level + 1 < len(by_level) else np.empty(0, np.intp)
        if not len(single) + len(below):
            continue
        tokens = output_tokens[single]
        family = np.concatenate([tree.node_of_row[single], tree.parent[below]])
        of_work = np.concatenate([tokens, work[below]])
        of_ends = np.concatenate([tokens * slots, ends[below]])
        of_arrived = np.concatenate([single, arrived[below]])
        of_size = np.concatenate([np.ones(len(single), np.int64), size[below]])
        order = np.lexsort((of_arrived, of_work - of_ends, family))
        family, of_work, of_ends, of_size = (each[order] for each in (family, of_work, of_ends, of_size))
        first = np.flatnonzero(np.r_[True, family[1:] != family[:-1]])
        parents = family[first]
        work[parents] = np.add.reduceat(of_work, first)
        ends[parents] = np.maximum.reduceat(_before(of_work, first) + of_ends, first)
        arrived[parents] = np.minimum.reduceat(of_arrived[order], first)
        size[parents] = np.add.reduceat(of_size, first)
        offset = np.empty(len(order), np.int64)
        offset[order] = _before(of_size, first)
        row_offset[single], node_offset[below] = offset[: len(single)], offset[len(single) :]
    for below in by_level[1:]:
        node_offset[below] += node_offset[tree.parent[below]]
    places = np.empty(rows, np.int64)
    places[node_offset[tree.node_of_row] + row_offset] = np.arange(rows)
    return places


def _rows_by_level(tree: PrefixTree, levels: int) -> list[Places]:
    level = tree.level[tree.node_of_row]
    return np.split(np.argsort(level, kind="stable"), np.cumsum(np.bincount(level, minlength=levels))[:-1])


def _before(values: Places, first: Places) -> Places:
    """The sum of the values that stand before each one in its family."""
    before: Places = np.cumsum(values) - values
    return before - np.repeat(before[first], np.diff(np.r_[first, len(values)]))
