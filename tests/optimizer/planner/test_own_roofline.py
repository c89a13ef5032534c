"""A lane's place under the roofline, held against arithmetic by hand."""

from dataclasses import replace

import pytest

from optimizer.planner.own_roofline import LaneRan, spots
from serving.engine_config import ModelShape
from serving.records import Load

# Two layers of four heads as wide as 8; an MLP of 64; a vocabulary of 100.
SHAPE = ModelShape("L", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, vocabulary=100, max_model_len=512,
                   intermediate=64, tied=True)  # fmt: skip
LAYERS = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)  # q, k and v, o, gate up down
HEAD, KV = 32 * 100, 2 * 2 * 2 * 8 * 4  # numbers; bytes of a token
LOAD = Load(decode_s=2.0, decode_steps=100, decode_tokens=800, mixed_s=4.0, mixed_steps=10, mixed_prefill=2000,
            mixed_decode=60)  # fmt: skip
LANE = LaneRan("full", SHAPE, 4.0, 4, LOAD, prompt_tokens=50.0, output_tokens=20.0)


def test_decode_reads_all_weights_once_a_step_and_what_each_sequence_has_in_the_cache() -> None:
    [_, decode] = spots(LANE)
    flops = 800 * (2 * (LAYERS + HEAD) + 4 * 2 * 4 * 8 * 60)
    moved = 100 * (LAYERS + HEAD) * 4 + 800 * 60 * KV
    assert decode.name == "full: decode"
    assert decode.flop_per_byte == pytest.approx(flops / moved)
    assert decode.flop_s == pytest.approx(flops / 2.0)


def test_a_step_with_prompts_passes_the_head_with_the_last_token_of_each_and_with_what_it_puts_out() -> None:
    [prefill, _] = spots(LANE)
    flops = 2000 * (2 * LAYERS + 4 * 2 * 4 * 8 * 25) + 2000 / 50 * 2 * HEAD
    flops += 60 * (2 * (LAYERS + HEAD) + 4 * 2 * 4 * 8 * 60)
    moved = 10 * (LAYERS + HEAD) * 4 + (2000 + 60 * 60) * KV
    assert prefill.flop_s == pytest.approx(flops / 4.0)
    assert prefill.flop_per_byte == pytest.approx(flops / moved)


def test_smaller_weights_move_it_to_the_right_and_not_up() -> None:
    [_, full], [_, int8] = spots(LANE), spots(replace(LANE, weight_bytes=1.0))
    assert int8.flop_per_byte > full.flop_per_byte
    assert int8.flop_s == full.flop_s


def test_of_experts_a_step_reads_those_that_some_token_passes() -> None:
    mixture = replace(SHAPE, experts=8, experts_per_token=2, expert_intermediate=64)
    one, crowd = (
        spots(replace(LANE, shape=mixture, load=Load(1.0, 1, tokens), prompt_tokens=0.0, output_tokens=0.0))[0]
        for tokens in (1, 64)
    )
    assert crowd.flop_per_byte < 64 * one.flop_per_byte  # a dense model's would be 64 times as much


def test_what_it_had_none_of_has_no_place() -> None:
    assert [spot.name for spot in spots(replace(LANE, load=replace(LOAD, mixed_s=0.0)))] == ["full: decode"]
    assert [spot.name for spot in spots(replace(LANE, load=replace(LOAD, decode_s=0.0)))] == ["full: prefill"]
    assert spots(replace(LANE, load=Load())) == []
