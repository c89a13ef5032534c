"""Where a run's lanes stood under the roofline of the machine that they ran on: what their steps computed and moved,
counted as in `optimizer.planner.work`, over what a token took by the engine's own clock."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from optimizer.planner.weights import weights_of
from serving.engine_config import ModelShape


class Spot(NamedTuple):
    name: str
    flop_per_byte: float
    flop_s: float


@dataclass(frozen=True, slots=True)
class LaneRan:
    lane: str
    shape: ModelShape
    weight_bytes: float  # of a weight in the layers
    number_bytes: int  # of a number in the head and in the KV cache
    prefill_s_per_token: float
    decode_s_per_token: float
    running: float  # sequences at once, the mean over its time
    prompt_tokens: float  # of a prompt, the mean
    output_tokens: float  # of an answer
    step_tokens: int  # of prompts, that a step computes at the most


def spots(ran: LaneRan) -> list[Spot]:
    """Its prefill, in steps as full as they may be, and its decode, with as many sequences as ran in the mean. What was
    not measured is left out."""
    found = []
    if ran.prefill_s_per_token > 0 and ran.prompt_tokens > 0:
        flops, moved = _prefill(ran)
        found.append(Spot(f"{ran.lane}: prefill", flops / moved, flops / (ran.step_tokens * ran.prefill_s_per_token)))
    if ran.decode_s_per_token > 0 and ran.running > 0:
        flops, moved = _decode(ran)
        found.append(Spot(f"{ran.lane}: decode", flops / moved, flops / (ran.running * ran.decode_s_per_token)))
    return found


def _prefill(ran: LaneRan) -> tuple[float, float]:
    """FLOPs and bytes of a step. A token looks back at a half of its prompt; the head is passed by its last token."""
    a_token = 2 * _passed(ran.shape) + _attention(ran.shape) * ran.prompt_tokens / 2
    a_token += 2 * weights_of(ran.shape).head / ran.prompt_tokens
    written = ran.shape.kv_bytes_per_token(ran.number_bytes)
    return ran.step_tokens * a_token, _read(ran, ran.step_tokens) + ran.step_tokens * written


def _decode(ran: LaneRan) -> tuple[float, float]:
    context = ran.prompt_tokens + ran.output_tokens / 2
    a_token = 2 * (_passed(ran.shape) + weights_of(ran.shape).head) + _attention(ran.shape) * context
    looked_at = ran.running * context * ran.shape.kv_bytes_per_token(ran.number_bytes)
    return ran.running * a_token, _read(ran, ran.running) + looked_at


def _passed(shape: ModelShape) -> float:
    """Weights in the layers that a token is multiplied with."""
    weights = weights_of(shape)
    share = shape.experts_per_token / shape.experts if shape.experts else 0.0
    return weights.linear + weights.experts * share


def _attention(shape: ModelShape) -> float:
    """FLOPs for each token that is looked back at: scores, and sums over values."""
    return 4.0 * shape.layers * shape.heads * shape.head_dim


def _read(ran: LaneRan, tokens: float) -> float:
    """Bytes of weights that a step reads; of routed experts those that some token passes."""
    weights, shape = weights_of(ran.shape), ran.shape
    share = shape.experts_per_token / shape.experts if shape.experts else 0.0
    touched = 1 - math.pow(1 - share, tokens)
    return (weights.linear + weights.experts * touched) * ran.weight_bytes + weights.head * ran.number_bytes
