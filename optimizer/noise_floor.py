"""How often two answers of the same model to the same request are judged to differ: below that, no figure can go.

Even greedy answers differ between batches of other shapes, and a judge errs as well. What reuse, or a cheaper model, is
judged to have wrong is told beside this, since that much of it is no one's fault.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
HALVINGS = 60  # of the interval from 0 to 1, down to what a float can tell apart


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    pairs: int
    differ: int

    @property
    def share(self) -> float | None:
        """None where there are no pairs: nothing is known then, which is not that none differ."""
        return self.differ / self.pairs if self.pairs else None

    @property
    def interval(self) -> tuple[float, float]:
        """The shares that are not ruled out, with CONFIDENCE."""
        return clopper_pearson(self.differ, self.pairs, CONFIDENCE)


def noise_floor(agrees: Sequence[bool] | NDArray[np.bool_]) -> NoiseFloor:
    """Of pairs of answers, each to one request by one model that ran twice, whether the judge found them the same."""
    return NoiseFloor(len(agrees), len(agrees) - int(np.count_nonzero(agrees)))


def clopper_pearson(found: int, of: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share, from a sample of a population that is much larger (Clopper and Pearson 1934).

    It holds the true share in at least `confidence` of all samples: each bound is where no more than half of the rest
    would have shown as many, or as few.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if found == 0 else _falls_to(1 - tail, lambda share: _at_most(found - 1, of, share))
    high = 1.0 if found == of else _falls_to(tail, lambda share: _at_most(found, of, share))
    return low, high


def _falls_to(level: float, probability: Callable[[float], float]) -> float:
    """The share at which a probability that falls with it reaches a level."""
    least, most = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        least, most = (middle, most) if probability(middle) > level else (least, middle)
    return (least + most) / 2


def _at_most(found: int, of: int, share: float) -> float:
    """P[Binomial(of, share) <= found]."""
    if share in (0.0, 1.0):
        return 1.0 if share == 0.0 or found == of else 0.0
    hit, miss = math.log(share), math.log1p(-share)
    ways = math.lgamma(of + 1)
    return math.fsum(
        math.exp(ways - math.lgamma(count + 1) - math.lgamma(of - count + 1) + count * hit + (of - count) * miss)
        for count in range(found + 1)
    )
