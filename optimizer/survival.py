"""How long answers will be while some of them are still being written, which are mostly the long ones.

The mean of what has finished is too short then. An answer under way tells that it is longer than it is by now (right
censoring), and the estimator of Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 1958,
takes both as what they are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 4096  # at most, of lengths that may be longer


class Lengths:
    """Of answers that may have `most` tokens: `finished` counts those that have, by their length, and `ages` has the
    tokens so far of each that is under way."""

    def __init__(self, finished: Mapping[int, int], ages: Sequence[int], most: int) -> None:
        self.most = most
        self._bin_tokens = -(-most // BINS)
        counted = Counter[int]()
        for length, count in finished.items():
            counted[-(-length // self._bin_tokens)] += count
        passing = survival(counted, [age // self._bin_tokens for age in ages], -(-most // self._bin_tokens))
        self._passing, self._beyond = passing, mean_beyond(passing)
        self.deviation = self._bin_tokens * deviation(passing)  # tokens

    def beyond(self, age: int) -> float:
        """How many tokens one that has so many is still expected to get."""
        return self._bin_tokens * float(self._beyond[min(age // self._bin_tokens, len(self._beyond) - 1)])

    def drawn(self, chance: float, age: int) -> float:
        """How many tokens more it gets than `age`, if `chance` of those that come so far get no more."""
        at = min(age // self._bin_tokens, len(self._passing) - 1)
        left = self._passing[at] * (1 - chance)
        place = int(np.searchsorted(-self._passing[at:], -left))  # the first that at most so many pass
        return float(self._bin_tokens * place)


def survival(finished: Mapping[int, int], ages: Sequence[int], most: int) -> Floats:
    """The share of answers that pass each length from 0 to `most`, which none does.

    Arguments as of `Lengths`; both are cut at `most`. Beyond the longest that was seen, answers go on ending as often a
    token as the longer half of those seen did.
    """
    ended, under_way = np.zeros(most + 1), np.zeros(most + 1)
    for length, count in finished.items():
        ended[min(max(1, length), most)] += count
    for age in ages:
        under_way[min(age, most)] += 1
    at_risk = np.cumsum((ended + under_way)[::-1])[::-1]  # that reached a length: by the token that made it so long
    share = np.divide(ended, at_risk, out=np.zeros(most + 1), where=at_risk > 0)
    long = slice(int(np.searchsorted(np.cumsum(ended), ended.sum() / 2)), most)  # what half of those that ended pass
    share[at_risk == 0] = ended[long].sum() / max(1.0, at_risk[long].sum())
    share[most] = 1.0
    return np.cumprod(1 - share)


def mean_beyond(passing: Floats) -> Floats:
    """From `survival`: how many tokens an answer that has passed each length is still expected to get; 0 where none
    passes it."""
    ahead = np.cumsum(passing[::-1])[::-1]
    return np.divide(ahead, passing, out=np.zeros(len(passing)), where=passing > 0)


def deviation(passing: Floats) -> float:
    """Of the lengths, in tokens."""
    mean = float(passing.sum())
    square = float(((2 * np.arange(len(passing)) + 1) * passing).sum())  # E[L^2] = sum over t of (2t + 1) P(L > t)
    return float(np.sqrt(max(0.0, square - mean**2)))
