"""The draw of rows: repeatable, no row in both halves, refusals that name the counts."""

import pytest

from serving.models.quantize.schemes import BadScheme
from serving.models.sample import Prompt, check_tokens, draw

PLACES = [3 * place for place in range(100)]


def test_a_seed_draws_the_same_rows_again_and_another_seed_others() -> None:
    assert draw(PLACES, 100, 20, 10, seed=7) == draw(PLACES, 100, 20, 10, seed=7)
    assert draw(PLACES, 100, 20, 10, seed=7) != draw(PLACES, 100, 20, 10, seed=8)


def test_no_row_is_both_looked_at_and_measured_on() -> None:
    drawn = draw(PLACES, 100, 60, 40, seed=0)
    assert sorted((*drawn.calibration, *drawn.held_out)) == PLACES
    assert (len(drawn.calibration), len(drawn.held_out)) == (60, 40)


@pytest.mark.parametrize("rows", [1, 20, 128, 300])
def test_schemes_that_look_at_other_numbers_of_rows_are_measured_on_the_same(rows: int) -> None:
    places = list(range(340))
    assert draw(places, 340, rows, 32, seed=0).held_out == draw(places, 340, 0, 32, seed=0).held_out


def test_too_few_different_prompts_are_refused_with_the_counts() -> None:
    with pytest.raises(BadScheme) as refused:
        draw(PLACES, 120, 90, 11, seed=0)
    assert "100 different prompts in 120 admitted rows, but wanted are 90 to calibrate on and 11 to" in str(
        refused.value
    )
    assert "lower --rows or --held-out" in str(refused.value)


def test_fewer_tokens_than_a_layer_has_inputs_are_refused() -> None:
    rows = [Prompt(row, (1, 2, 3), 8) for row in range(5)]
    check_tokens(rows, 15)
    with pytest.raises(BadScheme, match="5 rows to calibrate on come to 15 tokens, fewer than the 16 inputs"):
        check_tokens(rows, 16)
