"""What an engine still has to compute, part by part of its steps, from how long answers are expected to get.

Requests are played in the order of a shuffle: as many at once as there are slots, each a token a step. So the end, when
few are left and a step costs more for each of them, counts as what it is.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optimizer.survival import Lengths

MOST_PLAYED = 2000  # of those that wait; of more, so many stand for all


class Parts(NamedTuple):
    """As serving.records.StepEvidence has them."""

    steps: float
    prefilled: float
    attended: float
    sequences: float  # tokens put out
    context: float


@dataclass(frozen=True, slots=True)
class Group:
    """Requests whose answers are expected to be alike."""

    lengths: Lengths
    waiting: int
    ages: Sequence[int]  # tokens so far of those under way


def remaining(groups: Sequence[Group], slots: int, prompts: float, prompt_tokens: float, found_share: float) -> Parts:
    """`prompts` are the tokens of prompts still to be computed, `prompt_tokens` the mean of a whole one, `found_share`
    what the prefix cache has of one."""
    draw = np.random.default_rng(0)
    under_way = [age for group in groups for age in group.ages]
    running = [group.lengths.drawn(draw.random(), age) for group in groups for age in group.ages]
    waiting_count = sum(group.waiting for group in groups)
    share = min(1.0, MOST_PLAYED / max(1, waiting_count))
    waiting = np.concatenate([np.empty(0), *(_quantiles(group, share) for group in groups)])
    draw.shuffle(waiting)
    ages = np.array(under_way + [0] * len(waiting), np.float64)
    lengths = np.array([*running, *waiting.tolist()], np.float64)
    stands_for = np.array([1.0] * len(running) + [waiting_count / max(1, len(waiting))] * len(waiting))
    sequences = float(stands_for @ lengths)
    not_played = sequences - float(lengths.sum())
    return Parts(
        steps=_makespan(lengths.tolist(), slots) + not_played / slots,
        prefilled=prompts,
        attended=prompts * prompt_tokens * (1 + found_share) / 2,  # a token looks back at all before it
        sequences=sequences,
        context=float(stands_for @ (lengths * (prompt_tokens + ages) + lengths**2 / 2)),
    )


def _quantiles(group: Group, share: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    count = round(group.waiting * share) or min(1, group.waiting)
    return np.array([group.lengths.drawn((place + 0.5) / count, 0) for place in range(count)], np.float64)


def _makespan(lengths: Sequence[float], slots: int) -> float:
    """Steps until the last is done, where each that ends makes room for the next."""
    ends: list[float] = []
    for length in lengths:
        begins = heapq.heappop(ends) if len(ends) >= slots else 0.0
        heapq.heappush(ends, begins + length)
    return max(ends, default=0.0)
