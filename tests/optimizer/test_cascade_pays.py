"""A cascade is begun only where what a model thinks of its own answers tells which are wrong, and is cheap enough."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.choosing import cascade_pays

ROWS, AUDITED = 4000, 300


def told(
    tells: float, wrong_share: float = 0.3, cost_ratio: float = 0.1, seed: int = 0, known: bool = True
) -> tuple[object, ...]:
    """A population of which audits found some wrong; `tells` is how many deviations right and wrong lie apart."""
    draw = np.random.default_rng(seed)
    truth = draw.random(ROWS) < wrong_share
    confidence = draw.normal(size=ROWS) - tells * truth
    audited = np.zeros(ROWS, np.bool_)
    audited[draw.choice(ROWS, AUDITED, replace=False)] = True
    drawn = audited.copy()
    drawn[draw.choice(ROWS, 600, replace=False)] = True
    features = draw.normal(size=(ROWS, 3))
    group = np.zeros(ROWS, np.int64)
    seen = np.where(audited, confidence, np.nan) if known else np.full(ROWS, np.nan)
    return features, seen, group, audited, truth & audited, ~audited, drawn & ~audited, 0.05, 0.01, cost_ratio


def pays(*arguments: object) -> bool:
    return cascade_pays(*arguments)  # type: ignore[arg-type]


def test_it_pays_where_a_cheap_model_knows_when_it_errs() -> None:
    assert pays(*told(tells=6.0))


def test_it_does_not_where_its_confidence_tells_nothing() -> None:
    assert not pays(*told(tells=0.0))


def test_it_does_not_where_the_cheap_model_costs_as_much_as_it_could_save() -> None:
    assert not pays(*told(tells=6.0, cost_ratio=0.8))


def test_it_does_not_where_no_confidence_is_told_or_nothing_was_found_wrong() -> None:
    assert not pays(*told(tells=6.0, known=False))
    assert not pays(*told(tells=6.0, wrong_share=0.0))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), low=st.floats(0, 0.5), more=st.floats(0, 0.5))
def test_what_pays_at_a_price_pays_at_a_lower_one(seed: int, low: float, more: float) -> None:
    if pays(*told(tells=4.0, cost_ratio=low + more, seed=seed)):
        assert pays(*told(tells=4.0, cost_ratio=low, seed=seed))


@pytest.mark.parametrize("cost_ratio", [float("inf"), 1.0, 5.0])
def test_a_model_that_is_dearer_than_the_full_one_never_pays(cost_ratio: float) -> None:
    assert not pays(*told(tells=6.0, cost_ratio=cost_ratio))
