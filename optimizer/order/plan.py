"""The order that a lane is fed in: prefix groups together, long answers early, short ones in the tail.

`depth_first` bounds the end of the lane as well as groups that stay whole allow. Where that is not enough, because
groups of one kind each hold a long answer and the last of them starts late, the rows that would end too late are taken
out of their groups and fed first. They stand in depth-first order among themselves, so that a group is begun twice at
most, and as many of them are taken as cost no more than MAX_LOSS of all blocks in prefix hits.
"""

import numpy as np
from numpy.typing import NDArray

from optimizer.order.depth_first import depth_first
from optimizer.order.tree import Places, PrefixTree

TAIL = 0.05  # of the least makespan: how far past it a row may be bounded to end
AIM = 0.04  # and what is mended to: rows that go ahead make others later
MAX_LOSS = 0.02  # of all prompt blocks: what may be computed twice to mend the tail
ROUNDS = 8


def prefix_longest(tree: PrefixTree, output_tokens: Places, slots: int) -> Places:
    """The places of the tree's rows, in the order to feed them; `output_tokens` are expected ones."""
    best = order = depth_first(tree, output_tokens, slots)
    ahead = np.zeros(len(order), np.bool_)
    for _ in range(ROUNDS):
        if not len(late_rows(order, output_tokens, slots)):
            break
        late = late_rows(order, output_tokens, slots, AIM)
        late = late[~ahead[late]]
        taken = _affordable(tree, ahead, late)
        if not taken:
            break
        ahead[late[:taken]] = True
        parts = [np.flatnonzero(ahead), np.flatnonzero(~ahead)]
        order = np.concatenate([rows[depth_first(tree.of(rows), output_tokens[rows], slots)] for rows in parts])
        best = min(best, order, key=lambda order: _ends(order, output_tokens, slots).max())
    return best


def late_rows(order: Places, output_tokens: Places, slots: int, tail: float = TAIL) -> Places:
    """The rows that may end more than `tail` past the least makespan, the latest first."""
    ends = _ends(order, output_tokens, slots)
    least = max(int(output_tokens.sum()), slots * int(output_tokens.max(initial=0)))
    late = np.flatnonzero(ends > (1 + tail) * least)
    return order[late[np.argsort(-ends[late], kind="stable")]]


def _ends(order: Places, output_tokens: Places, slots: int) -> Places:
    """When each row ends at the latest, in steps of one slot; the bound of depth_first."""
    tokens = output_tokens[order]
    ends: Places = np.cumsum(tokens) - tokens + slots * tokens
    return ends


def blocks_lost(tree: PrefixTree, ahead: NDArray[np.bool_]) -> int:
    """What is computed twice if these rows are fed apart from the rest: every node that both have rows below."""
    return _lost(tree, ahead, tree.rows_below(np.ones(len(ahead), np.bool_)))


def _lost(tree: PrefixTree, ahead: NDArray[np.bool_], all_rows: Places) -> int:
    in_front = tree.rows_below(ahead)
    split = (in_front > 0) & (in_front < all_rows)
    return int((tree.depth - tree.depth[tree.parent])[split].sum())


def _affordable(tree: PrefixTree, ahead: NDArray[np.bool_], late: Places) -> int:
    """How many of the late rows can go ahead, by bisection: the loss grows with them, but for a group that is done."""
    budget = MAX_LOSS * int(tree.blocks_of_row.sum())
    all_rows = tree.rows_below(np.ones(len(ahead), np.bool_))

    def costs(count: int) -> int:
        more = ahead.copy()
        more[late[:count]] = True
        return _lost(tree, more, all_rows)

    if costs(len(late)) <= budget:
        return len(late)
    least, most = 0, len(late)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if costs(middle) <= budget else (least, middle)
    return least
