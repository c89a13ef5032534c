"""Guessing ahead: worth something to small batches, nothing to full ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.speculation import best_guesses, expected_tokens, speed_up
from tests.optimizer.planner.plans import cost

DRAFT = cost("Llama-3.2-1B")
TARGET = cost("Llama-3.1-70B")


@given(st.floats(0, 0.99), st.integers(0, 8))
def test_a_step_yields_at_least_its_own_token_and_at_most_all(acceptance: float, guessed: int) -> None:
    assert 1 <= expected_tokens(acceptance, guessed) <= guessed + 1 + 1e-9


def test_no_guess_changes_nothing() -> None:
    assert speed_up(TARGET, DRAFT, 8.0, 8000.0, 0, 0.7) == 1


def test_a_small_batch_is_helped() -> None:
    assert speed_up(TARGET, DRAFT, 1.0, 1000.0, 4, 0.8) > 1.3
    assert best_guesses(TARGET, DRAFT, 1.0, 1000.0, 0.8) > 0


def test_a_batch_bound_by_arithmetic_is_never_helped() -> None:
    """speed-up tends to E / ((g + 1) + g c) < 1."""
    assert speed_up(TARGET, DRAFT, 2048.0, 2048.0 * 500, 4, 0.7) < 1
    assert best_guesses(TARGET, DRAFT, 2048.0, 2048.0 * 500, 0.7) == 0


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.9])
def test_the_gain_shrinks_as_the_batch_grows(acceptance: float) -> None:
    gains = [
        float(speed_up(TARGET, DRAFT, batch, batch * 200.0, 3, acceptance)) for batch in (1.0, 64.0, 512.0, 4096.0)
    ]
    assert gains[0] > gains[2] > gains[3]
