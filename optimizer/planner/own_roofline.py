"""Where a run's lanes stood under the roofline of the machine that they ran on: what their steps computed and moved,
counted as in `optimizer.planner.work`, over what they took by the engine's own clock. A step with prompts in it is
taken as it was, with what it put out beside: what of its time was the prompts' nobody can tell."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from optimizer.planner.weights import weights_of
from serving.engine_config import ModelShape
from serving.records import Load


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
    load: Load  # all that its steps did
    prompt_tokens: float  # of a prompt, the mean
    output_tokens: float  # of an answer


def spots(ran: LaneRan) -> list[Spot]:
    """Its steps with prompts in them, and those that only decode; what it had none of is left out."""
    load, context = ran.load, ran.prompt_tokens + ran.output_tokens / 2
    found = []
    if load.mixed_s > 0 and load.mixed_steps > 0:
        flops = _flops(ran, load.mixed_prefill, ran.prompt_tokens / 2, load.mixed_prefill / max(1.0, ran.prompt_tokens))
        flops += _flops(ran, load.mixed_decode, context, load.mixed_decode)
        moved = _read(ran, load.mixed_steps, load.mixed_prefill + load.mixed_decode)
        moved += _cache_bytes(ran, load.mixed_prefill + load.mixed_decode * context)
        found.append(Spot(f"{ran.lane}: prefill", flops / moved, flops / load.mixed_s))
    if load.decode_s > 0 and load.decode_steps > 0:
        flops = _flops(ran, load.decode_tokens, context, load.decode_tokens)
        moved = _read(ran, load.decode_steps, load.decode_tokens) + _cache_bytes(ran, load.decode_tokens * context)
        found.append(Spot(f"{ran.lane}: decode", flops / moved, flops / load.decode_s))
    return found


def _flops(ran: LaneRan, tokens: float, looked_at: float, heads: float) -> float:
    """Of tokens that look back at so many each; `heads` of them are passed through the head, which finds the next."""
    weights, shape = weights_of(ran.shape), ran.shape
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim  # scores, and sums over values
    passed = weights.linear + weights.experts * _share(shape)
    return tokens * (2 * passed + attention * looked_at) + heads * 2 * weights.head


def _read(ran: LaneRan, steps: float, tokens: float) -> float:
    """Bytes of weights; of routed experts those that some token of a step passes."""
    weights = weights_of(ran.shape)
    touched = 1 - math.pow(1 - _share(ran.shape), tokens / steps)
    layers = (weights.linear + weights.experts * touched) * ran.weight_bytes
    return steps * (layers + weights.head * ran.number_bytes)


def _cache_bytes(ran: LaneRan, tokens: float) -> float:
    return tokens * ran.shape.kv_bytes_per_token(ran.number_bytes)


def _share(shape: ModelShape) -> float:
    """Of the experts, that a token passes."""
    return shape.experts_per_token / shape.experts if shape.experts else 0.0
