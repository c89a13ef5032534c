"""What a step computes and moves, counted: FLOPs, bytes, and how many of the one for each of the other.

Linear layers take 2 FLOPs for each weight and token; attention 2 for each number of a query head and a token that is
looked at, once for scores and once for values. Weights are read once a step, and of routed experts those that are
touched; the cache is read for each sequence (Williams et al. 2009 for the roofline, Pope et al. 2022 for the counts).
"""

from dataclasses import dataclass

import numpy as np

from optimizer.planner.step import StepCost


@dataclass(frozen=True, slots=True)
class Work:
    """Of one GPU in one step."""

    flops: float
    moved_bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.moved_bytes


def work_of(
    cost: StepCost,
    prefill_tokens: float,
    prefill_attended: float,
    decode_sequences: float,
    decode_context_tokens: float,
) -> Work:
    """Arguments as of StepCost.seconds, of a cost of numbers, for ranks that do not form a pipeline."""
    tokens = prefill_tokens + decode_sequences
    sampled = max(decode_sequences, min(tokens, 1.0))
    share = min(float(cost.experts_per_token / cost.experts), 1.0)
    touched = -float(np.expm1(tokens * np.log1p(-min(share, 1 - 1e-12))))
    seen = _seen(cost, decode_context_tokens, decode_sequences)
    seen_prefill = _seen(cost, prefill_attended, prefill_tokens)
    linear = 2.0 * (cost.linear_weights + cost.expert_weights * share) * tokens + 2.0 * cost.head_weights * sampled
    pair = cost.attention_flops + cost.attention_window_flops * seen
    decoding = (cost.latent_flops or pair) * decode_context_tokens
    prefilling = (cost.attention_flops + cost.attention_window_flops * seen_prefill) * prefill_attended
    weights = (
        cost.linear_weights * cost.linear_bytes
        + cost.expert_weights * cost.expert_bytes * touched
        + cost.head_weights * 2.0
    )
    cache = (cost.kv_full_bytes + cost.kv_window_bytes * seen) * decode_context_tokens
    written = (cost.kv_full_bytes + cost.kv_window_bytes) * tokens
    return Work(
        float(linear + decoding + prefilling), float(weights + cache + written + cost.activation_bytes * tokens)
    )


def _seen(cost: StepCost, looked_at: float, tokens: float) -> float:
    """Share of the tokens that a windowed layer looks at."""
    return min(1.0, float(cost.window) / max(looked_at / max(tokens, 1e-9), 1e-9))
