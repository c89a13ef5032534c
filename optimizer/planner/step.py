"""What one step of an engine takes: the roofline of its operators with measured shares of the peaks.

t = sum over operators of max(FLOPs / C, bytes / W) / share(M)  +  attention  +  all-reduce  +  what each layer, each
sequence and each step cost besides (Williams et al. 2009; Pope et al. 2022; the list of operators as in GenZ,
arXiv 2406.01698). Every quantity may be a number, or an array over plans: `stack` makes one StepCost of many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.communication import FIRST, STEP, all_reduce_us
from optimizer.planner.experts import ACTIVATION_BYTES, grouped
from optimizer.planner.kernels import (
    CALL_FIRST,
    CALL_STEP,
    CALLS,
    GRID,
    decode_attention_us,
    matrix_shares,
    prefill_attention_share,
    sustained,
)
from optimizer.planner.precision import kv_bytes, precisions
from optimizer.planner.weights import weights_of
from serving.engine_config import ModelShape

Numbers = NDArray[np.float64]
Amount = float | Numbers

# Of a memory's bandwidth and of a peak, that any kernel reaches: the best tenth of measured shapes is at 0.94
# (efficiency.toml). Without it, fits that never saw a precision read weights at 1.4 times the bandwidth.
MOST = 0.95
LINK_SHARE = 0.75  # of a link's rate, that a send between pipeline stages reaches
PASSES_HIDDEN, PASSES_MLP = 10, 3  # times that norms, residuals, rotary embedding and the MLP's product touch memory


@dataclass(frozen=True, slots=True)
class Constants:
    """What is calibrated. The first seven, and `routing`, multiply a time: 1 is the roofline's by measured kernels."""

    weight_read: Amount = 1.0
    compute: Amount = 1.0
    kv_read: Amount = 1.0
    prefill_attention: Amount = 1.0
    all_reduce: Amount = 1.0
    expert_read: Amount = 1.0  # of experts' grouped products, where bytes and where arithmetic bound them
    expert_compute: Amount = 1.0
    evenness: Amount = 1.0  # of experts' popularity: shape of a gamma distribution, large where all are chosen alike
    layer_us: Amount = 12.0  # small kernels and gaps, for each layer
    routing: Amount = 1.0  # of sorting tokens by expert and back, over the measured kernel's
    sequence_us: Amount = 8.0  # scheduling, sampling and text, for each running sequence
    step_ms: Amount = 1.0  # whatever the batch
    request_ms: Amount = 15.0  # of a request that a server takes in, before its prompt is computed
    bubble: Amount = 0.05  # of a step, for each stage of a pipeline after the first: stages that wait for another


PRIORS = Constants()


@dataclass(frozen=True, slots=True)
class Split:
    """One model over GPUs."""

    tensor: int = 1
    pipeline: int = 1
    experts_whole: bool = False  # each rank has whole experts, and its own share of the sequences to attend to

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline


ALONE = Split()


@dataclass(frozen=True, slots=True)
class StepCost:
    """Of one rank, over all layers; a pipeline's stages take turns, so their layers add up."""

    layers: Amount
    stages: Amount
    attention_ranks: Amount  # that split sequences instead of heads
    bandwidth: Amount  # bytes/s
    half_flops: Amount  # 16-bit peak, sustained
    linear_weights: Amount
    linear_bytes: Amount
    linear_flops: Amount  # peak
    linear_compute_share: Amount
    linear_read_share: Amount
    linear_shares: Numbers  # by log2 of rows
    expert_weights: Amount  # routed, all of the rank
    expert_bytes: Amount
    expert_flops: Amount
    expert_compute_share: Amount
    expert_read_share: Amount
    expert_shares: Numbers
    expert_floor_s: Amount  # all of the rank's layers
    expert_each_s: Amount  # where every expert of the rank is touched, beside the reading
    expert_moved_bytes: Amount  # that each token moves on its way to its experts and back
    experts: Amount  # of which tokens choose; 1 where there are none
    experts_per_token: Amount
    head_weights: Amount
    head_shares: Numbers
    kv_full_bytes: Amount  # that one token of context makes a decoding sequence read
    kv_window_bytes: Amount  # the same in layers with a window
    window: Amount
    latent_flops: Amount  # decode, for each token of context; 0 but for latent attention
    kv_call_us: Numbers  # of one layer's call, by log2 of the bytes that it reads
    full_layers: Amount  # without a window
    attention_flops: Amount  # prefill, for each pair of tokens, in layers without a window
    attention_window_flops: Amount
    attention_share: Amount
    activation_bytes: Amount  # that each token moves
    reduces: Amount  # all-reduces in a step
    hidden_bytes: Amount  # of one token, as it is reduced or sent
    reduce_us: Numbers
    send_s_per_byte: Amount
    constants: Constants = PRIORS
    slower: Amount = 1.0  # factor of every step, by what was measured near this plan

    def seconds(
        self,
        prefill_tokens: Amount,
        prefill_attended: Amount,
        decode_sequences: Amount,
        decode_context_tokens: Amount,
        sampled: Amount | None = None,
    ) -> Amount:
        """Of a step with these tokens of prompts and these sequences that decode one token each.

        `prefill_attended` sums, over the prompts' tokens of the step, how many tokens each attends to: c * (x + c/2)
        for a chunk of c after x. `decode_context_tokens` sums the lengths of the sequences that decode. As many rows
        as those are `sampled` from, unless told.
        """
        k = self.constants
        prefill = np.asarray(prefill_tokens, dtype=np.float64)
        sequences = np.asarray(decode_sequences, dtype=np.float64)
        tokens = prefill + sequences
        micro = np.maximum(tokens / self.stages, np.minimum(tokens, 1.0))
        local = micro / self.attention_ranks  # tokens that a rank attends to, where ranks split the sequences
        product = self._product(
            self.linear_weights,
            self.linear_bytes,
            self.linear_flops,
            self.linear_compute_share,
            self.linear_read_share,
            self.linear_shares,
            local,
        )
        experts = self._experts(micro)
        drawn = np.asarray(sequences if sampled is None else sampled)
        head_rows = np.maximum(drawn, np.minimum(tokens, 1.0)) / self.stages / self.attention_ranks
        head = self._product(
            self.head_weights,
            2.0,
            self.half_flops,
            1.0,
            1.0,
            self.head_shares,
            np.maximum(head_rows, 1e-9),
        )
        moved = self.activation_bytes * local / self.bandwidth
        # A stage's micro-batch passes its own layers while the others pass theirs: the whole batch takes as long as one
        # micro-batch through all layers.
        lanes = self.stages * self.attention_ranks
        attention = self._attention(prefill, prefill_attended, sequences, decode_context_tokens, lanes)
        total = product + experts + head + moved + attention + self._reduce(micro)
        total = (total + self.layers * k.layer_us * 1e-6) * (1 + k.bubble * (self.stages - 1))
        besides = sequences * k.sequence_us * 1e-6 + k.step_ms * 1e-3
        seconds: Amount = np.where(tokens > 0, (total + besides) * self.slower, 0.0)[()]
        return seconds

    def _attention(
        self, prefill: Numbers, attended: Amount, sequences: Numbers, context: Amount, lanes: Amount
    ) -> Amount:
        k = self.constants
        mean_context = context / np.maximum(sequences, 1e-9)
        mean_attended = attended / np.maximum(prefill, 1e-9)
        seen = np.minimum(1.0, self.window / np.maximum(mean_context, 1e-9))
        seen_prefill = np.minimum(1.0, self.window / np.maximum(mean_attended, 1e-9))
        local = context / lanes
        by_bytes = self._calls(self.full_layers, self.kv_full_bytes * local)
        by_bytes = by_bytes + self._calls(self.layers - self.full_layers, self.kv_window_bytes * seen * local)
        by_flops = self.latent_flops * local / (self.half_flops * self.attention_share)
        decode = np.where(sequences > 0, np.maximum(by_bytes, by_flops) * k.kv_read, 0.0)
        flops = (self.attention_flops + self.attention_window_flops * seen_prefill) * attended / lanes
        return decode + flops / (self.half_flops * self.attention_share) * k.prefill_attention

    def _calls(self, layers: Amount, read: Amount) -> Numbers:
        """Of these layers' decode attention, which read so many bytes together."""
        each = np.log2(np.maximum(read / np.maximum(layers, 1.0), 1.0))
        place = (each - CALL_FIRST) / CALL_STEP
        within = np.exp(_between(np.log(self.kv_call_us), np.clip(place, 0.0, CALLS - 1.0)))
        beyond = 2.0 ** np.maximum(0.0, each - CALL_FIRST - CALL_STEP * (CALLS - 1))
        return np.asarray(layers * within * beyond * 1e-6)

    def _experts(self, tokens: Numbers) -> Amount:
        """Experts touched of E by T tokens that choose k each: E * (1 - (1 + k T / (E a))^-a).

        Choices are random, but some experts are more popular: by a gamma distribution of shape a. All alike, a
        without bound, it is E * (1 - exp(-k T / E)), near the E * (1 - (1 - k/E)^T) of uniform choices.
        """
        k = self.constants
        share = np.minimum(self.experts_per_token / self.experts, 1.0)
        chosen = tokens * share
        touched = -np.expm1(-k.evenness * np.log1p(chosen / k.evenness))
        touched = np.maximum(touched, np.minimum(tokens, 1.0) * share)  # one token touches all that it chooses
        rows = chosen / np.maximum(touched, 1e-12)
        flops = 2.0 * self.expert_weights * tokens * share
        read = self.expert_weights * self.expert_bytes * touched
        kernel = lookup(self.expert_shares, rows)
        by_flops = flops / (self.expert_flops * np.minimum(kernel * self.expert_compute_share / k.expert_compute, MOST))
        by_bytes = read / (self.bandwidth * np.minimum(kernel * self.expert_read_share / k.expert_read, MOST))
        sorting = self.expert_floor_s + self.expert_each_s * touched + self.expert_moved_bytes * tokens / self.bandwidth
        seconds: Amount = np.maximum(by_flops, by_bytes) + sorting * k.routing
        return seconds

    def _product(
        self,
        weights: Amount,
        weight_bytes: Amount,
        flops: Amount,
        compute_share: Amount,
        read_share: Amount,
        shares: Numbers,
        rows: Numbers,
    ) -> Amount:
        kernel = lookup(shares, rows)
        by_flops = 2.0 * weights * rows / (flops * np.minimum(kernel * compute_share / self.constants.compute, MOST))
        reached = np.minimum(kernel * read_share / self.constants.weight_read, MOST)
        by_bytes = weights * weight_bytes / (self.bandwidth * reached)
        bound: Amount = np.maximum(by_flops, by_bytes)
        return bound

    def _reduce(self, tokens: Numbers) -> Amount:
        size = np.maximum(tokens * self.hidden_bytes, 1.0)
        place = np.clip((np.log2(size) - FIRST) / STEP, 0.0, 11.0)
        within = np.exp(_between(np.log(np.maximum(self.reduce_us, 1e-9)), place))
        beyond = np.maximum(1.0, size / 2.0 ** (FIRST + STEP * 11))
        reduce_s = self.reduces * within * beyond * 1e-6 * self.constants.all_reduce
        return np.where(np.asarray(self.reduces) > 0, reduce_s, 0.0) + tokens * self.hidden_bytes * self.send_s_per_byte

    def taken(self, places: Sequence[int]) -> "StepCost":
        """Of a stack, these of its plans."""
        chosen = {field.name: getattr(self, field.name)[places] for field in fields(self) if field.name != "constants"}
        known = {field.name: getattr(self.constants, field.name)[places] for field in fields(self.constants)}
        return StepCost(**chosen, constants=Constants(**known))

    def calibrated(self, constants: Constants) -> "StepCost":
        return replace(self, constants=constants)


def lookup(shares: Numbers, rows: Amount) -> Numbers:
    """A share at M rows, linear in log M between the measured ones."""
    return _between(shares, np.clip(np.log2(np.maximum(rows, 1.0)), 0.0, GRID - 1.0))


def _between(table: Numbers, place: Numbers) -> Numbers:
    """`table` is (grid,) or (plans, grid); `place` is any shape, its last axis the plans where there are such."""
    table, place = np.asarray(table), np.asarray(place)
    below = np.minimum(place.astype(np.int64), table.shape[-1] - 2)
    part = place - below
    if table.ndim == 1:
        return np.asarray(table[below] * (1 - part) + table[below + 1] * part)
    plans = np.arange(table.shape[0])
    return np.asarray(table[plans, below] * (1 - part) + table[plans, below + 1] * part)


def stack(costs: Sequence[StepCost]) -> StepCost:
    """One StepCost whose every figure is an array over these."""
    named = {
        field.name: np.stack([np.asarray(getattr(cost, field.name), dtype=np.float64) for cost in costs])
        for field in fields(StepCost)
        if field.name != "constants"
    }
    constants = {
        field.name: np.stack([np.asarray(getattr(cost.constants, field.name), dtype=np.float64) for cost in costs])
        for field in fields(Constants)
    }
    return StepCost(**named, constants=Constants(**constants))


def step_cost(
    shape: ModelShape,
    gpu: Gpu,
    split: Split = ALONE,
    weight_dtype: str = "auto",
    kv_dtype: str = "auto",
    constants: Constants = PRIORS,
) -> StepCost:
    weights, schemes, number = weights_of(shape), precisions(weight_dtype, gpu), kv_bytes(kv_dtype)
    linear, experts = schemes.linear, schemes.experts
    # With whole experts on each rank attention is repeated and sequences are split; else heads and matrices are.
    across = 1 if split.experts_whole else split.tensor
    lanes = split.tensor if split.experts_whole else 1
    rate = sustained(gpu)
    full, windowed = kv_bytes_read(shape, across, number)
    latent = bool(shape.kv_lora_rank)
    width = shape.rope_head_dim + shape.head_dim if latent else shape.head_dim
    value = shape.value_head_dim or shape.head_dim
    pair = 2.0 * shape.heads * (width + value) / across  # scores and their use
    full_layers = shape.layers - (shape.windowed_layers if shape.window else 0)
    widest = shape.shared_intermediate if shape.experts else shape.intermediate
    kernel = grouped(gpu, experts)
    expert_layers = shape.layers - shape.dense_layers if shape.experts else 0
    of_experts = 1 / split.tensor if split.experts_whole else 1.0  # that a rank holds
    moved = shape.experts_per_token * shape.hidden * ACTIVATION_BYTES * kernel.passes
    absorbed = 2.0 * shape.heads * (2 * shape.kv_lora_rank + shape.rope_head_dim) / across
    return StepCost(
        layers=shape.layers,
        stages=split.pipeline,
        attention_ranks=lanes,
        bandwidth=gpu.memory_gb_s * 1e9,
        half_flops=gpu.bf16_tflops * 1e12 * rate,
        linear_weights=weights.linear / across,
        linear_bytes=linear.weight_bytes,
        linear_flops=linear.flops * rate,
        linear_compute_share=linear.compute_share,
        linear_read_share=linear.read_share,
        linear_shares=matrix_shares(gpu, linear.kernel),
        expert_weights=weights.experts / split.tensor,
        expert_bytes=experts.weight_bytes,
        expert_flops=experts.flops * rate,
        expert_compute_share=kernel.compute_share,
        expert_read_share=kernel.read_share,
        expert_shares=kernel.shares,
        expert_floor_s=expert_layers * kernel.floor_us * 1e-6,
        expert_each_s=expert_layers * shape.experts * of_experts * kernel.each_us * 1e-6,
        expert_moved_bytes=expert_layers * moved * of_experts,
        experts=max(shape.experts, 1),
        experts_per_token=shape.experts_per_token if shape.experts else 0,
        head_weights=weights.head / across,
        head_shares=matrix_shares(gpu, "bfloat16"),
        kv_full_bytes=full,
        kv_window_bytes=windowed,
        window=shape.window or 1e12,
        latent_flops=shape.layers * absorbed if latent else 0.0,
        kv_call_us=decode_attention_us(gpu, number),
        full_layers=full_layers,
        attention_flops=pair * full_layers,
        attention_window_flops=pair * (shape.layers - full_layers),
        attention_share=prefill_attention_share(gpu),
        activation_bytes=2.0 * shape.layers * (PASSES_HIDDEN * shape.hidden + PASSES_MLP * widest / across),
        # Whole experts: tokens are gathered before them and shared out after, which moves as much as one all-reduce.
        reduces=(expert_layers if split.experts_whole else 2.0 * shape.layers) if split.tensor > 1 else 0.0,
        hidden_bytes=2.0 * shape.hidden,
        reduce_us=all_reduce_us(gpu, split.tensor),
        send_s_per_byte=1 / (gpu.link_gb_s * 1e9 * LINK_SHARE) if split.pipeline > 1 else 0.0,
        constants=constants,
    )


def kv_bytes_read(shape: ModelShape, tensor: int, bytes_per_number: float) -> tuple[float, float]:
    """What a token of context takes in a rank's cache: in layers that see all of it, and in those with a window.

    A latent is kept whole on every rank, and a KV head is never split: more ranks than heads keep copies.
    """
    if shape.kv_lora_rank:
        return shape.layers * (shape.kv_lora_rank + shape.rope_head_dim) * bytes_per_number, 0.0
    layer = 2.0 * max(1.0, shape.kv_heads / tensor) * shape.head_dim * bytes_per_number
    windowed = shape.windowed_layers if shape.window else 0
    return layer * (shape.layers - windowed), layer * windowed
