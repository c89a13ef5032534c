"""How long the parts of an engine's steps take on this machine, fitted from steps that it has run."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from serving.records import StepEvidence

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of each part of a step; together they are what it takes."""

    step_s: float
    prompt_token_s: float
    attended_token_s: float  # for each token of a prompt, and each token that it attends to
    sequence_s: float  # that decodes
    context_token_s: float  # for each sequence that decodes, and each token that it attends to

    def seconds(
        self, prefill_tokens: Floats, prefill_attended: Floats, decode_sequences: Floats, decode_context_tokens: Floats
    ) -> Floats:
        return (
            self.step_s
            + self.prompt_token_s * prefill_tokens
            + self.attended_token_s * prefill_attended
            + self.sequence_s * decode_sequences
            + self.context_token_s * decode_context_tokens
        )

    def of(self, totals: Sequence[float]) -> float:
        """Of steps with these parts in all."""
        return float(np.dot(totals, astuple(self)))


def scaled(times: StepTimes, slower: float) -> StepTimes:
    return StepTimes(*(slower * time for time in astuple(times)))


def fitted(evidence: StepEvidence) -> StepTimes:
    """Least squares, each step weighted by 1/seconds, no part below nothing; they add up to the time that was taken.

    Of every choice of parts that take time the best fit is tried, and the best one without a negative time is kept: of
    five parts there are 31 (Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23, states the problem).
    """
    totals, products = np.array(evidence.totals), _products(evidence)
    size = len(totals)
    scale = np.sqrt(np.maximum(np.diag(products), 1e-300))
    best, least = np.zeros(size), 0.0
    for count in range(1, size + 1):
        for parts in combinations(range(size), count):
            chosen = list(parts)
            inside = products[np.ix_(chosen, chosen)] / np.outer(scale[chosen], scale[chosen])
            times = np.linalg.lstsq(inside, totals[chosen] / scale[chosen], rcond=1e-9)[0] / scale[chosen]
            if (times < 0).any():
                continue
            error = times @ products[np.ix_(chosen, chosen)] @ times - 2 * times @ totals[chosen]
            if error < least:
                best, least = np.zeros(size), error
                best[chosen] = times
    # Weighted so, steps that are slow by chance weigh less than those that are fast by chance: the sum is set right.
    found = StepTimes(*best.tolist())
    return scaled(found, evidence.seconds / found.of(evidence.totals)) if best.any() else found


def unexplained(evidence: StepEvidence, times: StepTimes) -> float:
    """Of a step, on average: the share of its seconds that the fit does not tell, as a deviation."""
    theta, products = np.array(astuple(times)), _products(evidence)
    left = theta @ products @ theta - 2 * theta @ np.array(evidence.totals) + evidence.seconds
    return math.sqrt(max(0.0, left) / evidence.seconds)


def _products(evidence: StepEvidence) -> Floats:
    size = len(evidence.totals)
    products = np.zeros((size, size))
    products[np.triu_indices(size)] = evidence.products
    return products + np.triu(products, 1).T
