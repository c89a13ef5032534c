"""A lane's place under the roofline, held against arithmetic by hand."""

from dataclasses import replace

import pytest

from optimizer.planner.own_roofline import LaneRan, spots
from serving.engine_config import ModelShape

# Two layers of four heads as wide as 8; an MLP of 64; a vocabulary of 100.
SHAPE = ModelShape("L", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, vocabulary=100, max_model_len=512,
                   intermediate=64, tied=True)  # fmt: skip
LAYERS = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)  # q, k and v, o, gate up down
HEAD, KV = 32 * 100, 2 * 2 * 2 * 8 * 4  # numbers; bytes of a token
LANE = LaneRan("full", SHAPE, 4.0, 4, prefill_s_per_token=0.001, decode_s_per_token=0.002, running=8.0,
               prompt_tokens=50.0, output_tokens=20.0, step_tokens=256)  # fmt: skip


def test_decode_reads_all_weights_and_every_sequence_once_a_step() -> None:
    [_, decode] = spots(LANE)
    flops = 8 * (2 * (LAYERS + HEAD) + 4 * 2 * 4 * 8 * 60)
    moved = (LAYERS + HEAD) * 4 + 8 * 60 * KV
    assert decode.name == "full: decode"
    assert decode.flop_per_byte == pytest.approx(flops / moved)
    assert decode.flop_s == pytest.approx(flops / (8 * 0.002))


def test_prefill_passes_the_head_with_the_last_token_of_a_prompt() -> None:
    [prefill, _] = spots(LANE)
    a_token = 2 * LAYERS + 4 * 2 * 4 * 8 * 25 + 2 * HEAD / 50
    assert prefill.flop_s == pytest.approx(a_token / 0.001)
    assert prefill.flop_per_byte == pytest.approx(256 * a_token / ((LAYERS + HEAD) * 4 + 256 * KV))


def test_smaller_weights_move_it_to_the_right_and_not_up() -> None:
    [_, full], [_, int8] = spots(LANE), spots(replace(LANE, weight_bytes=1.0))
    assert int8.flop_per_byte > full.flop_per_byte
    assert int8.flop_s == full.flop_s


def test_of_experts_a_step_reads_those_that_some_token_passes() -> None:
    mixture = replace(SHAPE, experts=8, experts_per_token=2, expert_intermediate=64)
    [_, alone], [_, crowd] = (
        spots(replace(LANE, shape=mixture, running=running, output_tokens=0.0, prompt_tokens=1e-9))
        for running in (1.0, 64.0)
    )
    assert crowd.flop_per_byte < 64 * alone.flop_per_byte  # a dense model's would be 64 times as much


def test_what_was_not_measured_has_no_place() -> None:
    assert [spot.name for spot in spots(replace(LANE, prefill_s_per_token=0.0))] == ["full: decode"]
    assert [spot.name for spot in spots(replace(LANE, running=0.0))] == ["full: prefill"]
