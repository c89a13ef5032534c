"""The arithmetic of a model on a GPU, step by step: sizes, the cache, the critical batch, the roofline, predictions."""

from dataclasses import dataclass, replace

import numpy as np

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.calibration import Calibration
from optimizer.planner.deployment import calibrated_cost
from optimizer.planner.engines import defaults_of
from optimizer.planner.interval import Bounds, Stratum, bounds_of, seen_gpus, stratum
from optimizer.planner.layouts import BLOCK_TOKENS, ENGINE, RELEASE, Layout, reason_against
from optimizer.planner.memory import Memory
from optimizer.planner.nearby import kin_of, points_of
from optimizer.planner.precision import kv_bytes, precisions
from optimizer.planner.steady_state import Lengths, Scheduling, cycle, fixed, room
from optimizer.planner.step import StepCost
from optimizer.planner.weights import Weights, weights_of
from optimizer.planner.work import Work, work_of
from serving.engine_config import ModelShape
from serving.records import Interval


@dataclass(frozen=True, slots=True)
class Point:
    """A step, on one GPU."""

    name: str
    sequences: float  # that decode; 0 where a prompt is computed
    tokens: float
    work: Work
    seconds: Interval
    tokens_per_s: Interval  # of all GPUs that run the model together
    fits: bool  # the cache has room for it


@dataclass(frozen=True, slots=True)
class Explanation:
    shape: ModelShape
    layout: Layout
    weights: Weights
    weight_bytes: float  # of one weight, scales included
    memory: Memory
    kv_number_bytes: float
    kv_bytes_per_token: float  # of one GPU
    prompt_tokens: int
    output_tokens: int
    held_tokens: float  # by a running sequence, on average
    kv_blocks: int
    kv_tokens: int
    room: int  # sequences that the cache holds
    largest_batch: int  # that run at once: as many, or vLLM's limit
    max_num_seqs: int
    max_num_batched_tokens: int
    critical_tokens: float  # T* = C b_w / (2 W)
    ridge: float  # C / W, FLOP for each byte
    ceilings: tuple[tuple[str, float], ...]  # (units, peak FLOP/s), ascending
    units: str  # those that multiply these weights
    peak_flops: float
    bandwidth: float  # bytes/s
    points: tuple[Point, ...]
    output_tokens_per_s: Interval | None  # of a full batch, prompts included; None: no batch fits
    stratum: Stratum
    refused: str | None  # why vLLM would not run it


def explanation_of(
    shape: ModelShape, layout: Layout, calibration: Calibration, prompt_tokens: int, output_tokens: int
) -> Explanation:
    gpu, scheme = layout.gpu, precisions(layout.weights, layout.gpu)
    linear = scheme.experts if shape.experts else scheme.linear
    limits = defaults_of(ENGINE, RELEASE, gpu)
    memory = layout.memory(shape, limits.max_num_seqs, limits.max_num_batched_tokens)
    lengths = fixed(float(prompt_tokens), float(output_tokens))
    held = float(lengths.held)
    kv_tokens = float(memory.tokens_held(held, BLOCK_TOKENS))
    constant = calibrated_cost(layout.plan(shape), limits, RELEASE, calibration=calibration)

    def cost(sequences: float) -> StepCost:
        """With so many at once."""
        lengths = (np.array([float(tokens)]) for tokens in (prompt_tokens, output_tokens))
        kin, ranks = kin_of(layout.groups(shape), shape), float(layout.split.ranks)
        point = points_of([kin], [shape], [ranks], np.array([float(sequences)]), *lengths)
        return replace(constant, slower=float(np.exp(calibration.slower(point))[0]))

    holds = float(room(lengths, Scheduling(float(limits.max_num_seqs), 0.0, kv_tokens)))
    largest = min(int(holds), limits.max_num_seqs)
    peak, bandwidth = linear.flops, gpu.memory_gb_s * 1e9
    critical = peak * linear.weight_bytes / (2 * bandwidth)
    kind = stratum(vllm=True, moe=bool(shape.experts), seen=gpu.name in seen_gpus(), saturation=0.0)
    bounds = bounds_of(kind)
    chunk = min(prompt_tokens, limits.max_num_batched_tokens)
    points = [_prefill(cost(1), f"prefill, {chunk} tokens of a prompt", chunk, bounds, largest > 0)]
    batches = {1: "decode, 1 sequence"}
    for batch, what in ((round(critical), "the critical batch"), (largest, "the largest batch")):
        if batch > 0:
            batches.setdefault(batch, f"decode, {batch} sequences: {what}")
    for batch, name in sorted(batches.items()):
        points.append(_decode(cost(batch), name, batch, batch * held, bounds, batch <= int(holds)))
    return Explanation(
        shape=shape,
        layout=layout,
        weights=weights_of(shape),
        weight_bytes=linear.weight_bytes,
        memory=memory,
        kv_number_bytes=kv_bytes(layout.kv_dtype),
        kv_bytes_per_token=memory.kv_bytes_per_token,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        held_tokens=held,
        kv_blocks=memory.blocks(BLOCK_TOKENS),
        kv_tokens=memory.kv_tokens(BLOCK_TOKENS),
        room=int(holds),
        largest_batch=largest,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        critical_tokens=critical,
        ridge=peak / bandwidth,
        ceilings=ceilings_of(gpu),
        units=_units(layout, peak),
        peak_flops=peak,
        bandwidth=bandwidth,
        points=tuple(points),
        output_tokens_per_s=_steady(
            cost(largest), lengths, limits.max_num_seqs, limits.max_num_batched_tokens, kv_tokens, bounds
        )
        if largest
        else None,
        stratum=kind,
        refused=reason_against(shape, layout),
    )


def ceilings_of(gpu: Gpu) -> tuple[tuple[str, float], ...]:
    half = "FP16" if 0 < gpu.capability < 8.0 else "BF16"
    peaks = ((half, gpu.bf16_tflops), ("INT8", gpu.int8_tops), ("FP8", gpu.fp8_tflops), ("FP4", gpu.fp4_tflops))
    return tuple(sorted(((name, peak * 1e12) for name, peak in peaks if peak), key=lambda one: one[1]))


def _units(layout: Layout, peak: float) -> str:
    """The name of the ceiling that these weights meet."""
    equal = [name for name, height in ceilings_of(layout.gpu) if height == peak]
    wanted = "FP8" if "fp8" in layout.weights else "INT8"
    return next((name for name in equal if name == wanted), equal[0] if equal else "BF16")


def _prefill(cost: StepCost, name: str, tokens: int, bounds: Bounds, fits: bool) -> Point:
    attended = tokens * (tokens + 1) / 2
    seconds = float(cost.seconds(float(tokens), attended, 0.0, 0.0))
    work = work_of(cost, float(tokens), attended, 0.0, 0.0)
    return Point(name, 0.0, tokens, work, _slower(seconds, bounds), _speed(tokens / seconds, bounds), fits)


def _decode(cost: StepCost, name: str, batch: int, context: float, bounds: Bounds, fits: bool) -> Point:
    seconds = float(cost.seconds(0.0, 0.0, float(batch), context))
    work = work_of(cost, 0.0, 0.0, float(batch), context)
    return Point(name, batch, batch, work, _slower(seconds, bounds), _speed(batch / seconds, bounds), fits)


def _steady(cost: StepCost, lengths: Lengths, seqs: int, budget: int, kv_tokens: float, bounds: Bounds) -> Interval:
    full = cycle(cost, lengths, Scheduling(float(seqs), float(budget), kv_tokens))
    return _speed(float(full.output_tokens_per_s(lengths)), bounds)


def _slower(seconds: float, bounds: Bounds) -> Interval:
    return Interval(seconds, seconds / bounds.high, seconds / bounds.low)


def _speed(value: float, bounds: Bounds) -> Interval:
    return Interval(value, value * bounds.low, value * bounds.high)
