"""Which lane a prompt takes, by the rule that the job file states."""

import pytest

from optimizer.route import ToQuantized, route


@pytest.mark.parametrize(
    ("prompt_tokens", "to_quantized", "lane"),
    [
        (1, "none", "full"),
        (10_000, "all", "quantized"),
        (None, "all", "quantized"),
        (63, "short", "quantized"),
        (64, "short", "quantized"),  # at most 64 is short
        (65, "short", "full"),
        (None, "short", "full"),
    ],
)
def test_a_prompt_goes_where_the_rule_says(prompt_tokens: int | None, to_quantized: ToQuantized, lane: str) -> None:
    assert route(prompt_tokens, to_quantized, short_prompt_tokens=64).lane == lane


@pytest.mark.parametrize("prompt_tokens", [64, 65])
def test_the_reason_names_the_length_that_decided(prompt_tokens: int) -> None:
    assert "64 tokens" in route(prompt_tokens, "short", short_prompt_tokens=64).rule
