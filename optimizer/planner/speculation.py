"""What guessing tokens ahead and checking them in one step is worth, at a batch (Leviathan et al., arXiv 2211.17192).

speed-up(B) = E * t(B) / (g * t_draft(B) + t(B * (g + 1))), with E tokens expected of g guesses. Once B * (g + 1) tokens
are bound by arithmetic t grows with the tokens, so that a saturated batch is never helped.
"""

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.step import StepCost

Amount = float | NDArray[np.float64]

MOST_GUESSED = 8  # that are weighed
# Of a guess, where none was measured: by a small draft model of the target's family, and by one of another, that was
# trained on other text.
ACCEPTANCE, STRANGER_ACCEPTANCE = 0.6, 0.1


def expected_tokens(acceptance: Amount, guessed: int) -> Amount:
    """(1 - a^(g+1)) / (1 - a): the tokens that a step yields, its own among them."""
    accepted = np.minimum(acceptance, 1 - 1e-9)
    expected: Amount = (1 - accepted ** (guessed + 1)) / (1 - accepted)
    return expected


def checked_seconds(cost: StepCost, sequences: Amount, context_tokens: Amount, guessed: int) -> Amount:
    """A step that checks this many guesses for each sequence: more rows in every product, the cache read once."""
    rows = sequences * guessed
    attended = guessed * context_tokens
    return cost.seconds(rows, attended, sequences, context_tokens, sampled=sequences * (guessed + 1))


def seconds_per_token(
    cost: StepCost, draft: StepCost | None, sequences: Amount, context_tokens: Amount, guessed: int, acceptance: Amount
) -> Amount:
    """What a token of each sequence takes. No draft: guesses cost nothing (n-grams, suffixes)."""
    if not guessed:
        return cost.seconds(0.0, 0.0, sequences, context_tokens)
    drafting = guessed * draft.seconds(0.0, 0.0, sequences, context_tokens) if draft is not None else 0.0
    checked = checked_seconds(cost, sequences, context_tokens, guessed)
    return (drafting + checked) / expected_tokens(acceptance, guessed)


def speed_up(
    cost: StepCost, draft: StepCost | None, sequences: Amount, context_tokens: Amount, guessed: int, acceptance: Amount
) -> Amount:
    plain = cost.seconds(0.0, 0.0, sequences, context_tokens)
    return plain / seconds_per_token(cost, draft, sequences, context_tokens, guessed, acceptance)


def best_guesses(
    cost: StepCost, draft: StepCost | None, sequences: float, context_tokens: float, acceptance: float
) -> int:
    """How many to guess, 0 if none is best."""
    gains = [
        float(speed_up(cost, draft, sequences, context_tokens, guessed, acceptance))
        for guessed in range(MOST_GUESSED + 1)
    ]
    return int(np.argmax(gains))
