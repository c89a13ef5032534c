"""A step in which every sequence checks guesses: as StepCost, so that a batch's cycle is computed as without them.

A cycle then counts steps instead of tokens: of g guesses, each accepted with probability a, a step yields
E = (1 - a^(g+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192), so outputs are E times as few steps long.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.speculation import expected_tokens
from optimizer.planner.steady_state import Lengths
from optimizer.planner.step import Amount, StepCost

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GuessingCost(StepCost):
    guessed: Amount = 0.0  # tokens that each sequence checks beside its own; they cost nothing to find (n-grams)

    def seconds(
        self,
        prefill_tokens: Amount,
        prefill_attended: Amount,
        decode_sequences: Amount,
        decode_context_tokens: Amount,
        sampled: Amount | None = None,
    ) -> Amount:
        rows = np.asarray(decode_sequences) * self.guessed
        return StepCost.seconds(
            self,
            prefill_tokens + rows,
            prefill_attended + np.asarray(self.guessed) * decode_context_tokens,
            decode_sequences,
            decode_context_tokens,
            np.asarray(decode_sequences) + rows if sampled is None else sampled,
        )


def guessing(cost: StepCost, guessed: Amount) -> GuessingCost:
    figures = {field.name: getattr(cost, field.name) for field in fields(StepCost)}
    return GuessingCost(**figures, guessed=guessed)


def tokens_a_step(acceptance: float, guessed: Numbers) -> Numbers:
    """On average, the one that needs no guess among them."""
    return np.array([expected_tokens(acceptance, int(tokens)) for tokens in guessed], dtype=np.float64)


def in_steps(lengths: Lengths, guessed: Numbers, acceptance: float) -> Lengths:
    """Outputs counted in steps. What a running sequence holds on average stays as it is."""
    each = tokens_a_step(acceptance, guessed)
    return replace(
        lengths,
        output=np.maximum(lengths.output / each, 1.0),
        output_squared=lengths.output_squared / each,
        input_output=lengths.input_output / each,
    )
