"""The engines that could be: each GPU and split and precision that a model runs under, each batch and each guess."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.calibration import Groups
from optimizer.planner.deployment import Deployment, groups_of
from optimizer.planner.engines import defaults_of
from optimizer.planner.job import Job, Wish
from optimizer.planner.memory import GIB, Memory, activations_gib, memory_of
from optimizer.planner.precision import kv_bytes, precisions
from optimizer.planner.step import Split
from serving.engine_config import ModelShape

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

ENGINE, RELEASE = "vllm", "0.32"
BLOCK_TOKENS = 16  # vLLM's own on GPUs

TENSOR = (1, 2, 4, 8)
PIPELINE = (1, 2, 4, 8)
SEQUENCES = (16, 32, 64, 128, 256, 512, 1024)
BATCHED_TOKENS = (2048, 8192, 16384)
GUESSED = (0, 1, 3, 5)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the time of a step depends on beside its batch."""

    gpu: Gpu
    split: Split
    weights: str
    kv_dtype: str

    @property
    def utilization(self) -> float:
        """Share of a GPU's memory that the engine takes."""
        return defaults_of(ENGINE, RELEASE, self.gpu).utilization

    def groups(self, shape: ModelShape) -> Groups:
        """What it has in common with plans that were measured."""
        return groups_of(self.plan(shape), defaults_of(ENGINE, RELEASE, self.gpu), RELEASE, served=False)

    def plan(self, shape: ModelShape) -> Deployment:
        return Deployment(shape, self.gpu, self.split, self.weights, self.kv_dtype)

    def memory(self, shape: ModelShape, max_num_seqs: int, max_num_batched_tokens: int) -> Memory:
        return memory_of(
            shape,
            self.gpu,
            self.split,
            self.weights,
            self.kv_dtype,
            utilization=self.utilization,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
        )


@dataclass(frozen=True, slots=True)
class Engine:
    layout: Layout
    max_num_seqs: int
    max_num_batched_tokens: int
    guessed: int = 0  # tokens that each sequence checks in a step beside its own


@dataclass(frozen=True)
class Engines:
    """Many of them, by column."""

    layouts: tuple[Layout, ...]
    layout: Places
    sequences: Numbers
    batched_tokens: Numbers
    guessed: Numbers
    kv_tokens: Numbers  # that the cache holds, of sequences of the job's mean length

    def __len__(self) -> int:
        return len(self.layout)

    def at(self, places: Places) -> "Engines":
        columns = (self.sequences, self.batched_tokens, self.guessed, self.kv_tokens)
        return Engines(self.layouts, self.layout[places], *(column[places] for column in columns))

    def one(self, place: int) -> Engine:
        return Engine(
            self.layouts[int(self.layout[place])],
            int(self.sequences[place]),
            int(self.batched_tokens[place]),
            int(self.guessed[place]),
        )


def layouts_of(shape: ModelShape, wish: Wish, gpus: Iterable[tuple[Gpu, int]], refused: Counter[str]) -> list[Layout]:
    """`gpus` come with how many of them one machine has at most. Counts in `refused` what cannot be, by reason."""
    found = []
    each = len(SEQUENCES) * len(BATCHED_TOKENS)
    for gpu, most in gpus:
        for split in _splits(most):
            for weights in wish.weights:
                for kv_dtype in wish.kv_dtypes:
                    layout = Layout(gpu, split, weights, kv_dtype)
                    if (reason := reason_against(shape, layout)) is None:
                        found.append(layout)
                    else:
                        refused[reason] += each
    return found


def reason_against(shape: ModelShape, layout: Layout) -> str | None:
    """What vLLM would refuse, or has no kernel for."""
    gpu, split = layout.gpu, layout.split
    if not gpu.capability:
        return "no NVIDIA GPU: vLLM is installed for CUDA only"
    if shape.heads % split.tensor:
        return "attention heads cannot be shared out evenly over so many ranks"
    if shape.kv_heads % split.tensor and split.tensor % shape.kv_heads:
        return "KV heads cannot be shared out evenly over so many ranks"
    if split.pipeline > shape.layers:
        return "more pipeline stages than layers"
    if gpu.capability < 8.0 and precisions(layout.weights, gpu).linear.name != "bf16":
        return "no kernel for small weights before Ampere"
    if kv_bytes(layout.kv_dtype) < 2 and not gpu.fp8_tflops:
        return "FP8 KV cache on a GPU without FP8 units"
    return None


def _splits(most: int) -> Iterator[Split]:
    for tensor in TENSOR:
        for pipeline in PIPELINE:
            if tensor * pipeline <= most:
                yield Split(tensor, pipeline)


def engines_of(shape: ModelShape, job: Job, layouts: Sequence[Layout], refused: Counter[str]) -> Engines:
    """Every batch of every layout that the job's longest request fits in."""
    if job.longest > shape.max_model_len:
        layouts, each = (), len(SEQUENCES) * len(BATCHED_TOKENS) * len(layouts)
        refused["the longest request is longer than the model's context"] += each
    guesses = GUESSED if job.acceptance is not None else (0,)
    grid = np.array([(s, t, g) for s in SEQUENCES for t in BATCHED_TOKENS for g in guesses if t >= s * (g + 1)], float)
    kept, columns = list[Layout](), []
    for layout in layouts:
        tokens, fits = cache_tokens(shape, job, layout, grid[:, 0], grid[:, 1])
        if not fits.all():
            refused[_why(tokens, fits)] += int((~fits).sum())
        if fits.any():
            place = np.full(int(fits.sum()), len(kept), dtype=np.float64)
            columns.append(np.column_stack([place, grid[fits], tokens[fits]]))
            kept.append(layout)
    table = np.concatenate(columns) if columns else np.empty((0, 5))
    return Engines(tuple(kept), table[:, 0].astype(np.int64), *(table[:, column] for column in (1, 2, 3, 4)))


def engines_from(shape: ModelShape, job: Job, engines: Sequence[Engine]) -> Engines:
    """These ones. The cache of one that does not fit holds 0 tokens."""
    layouts = tuple(dict.fromkeys(engine.layout for engine in engines))
    sequences, batched, guessed = (
        np.array([getattr(engine, name) for engine in engines], dtype=np.float64)
        for name in ("max_num_seqs", "max_num_batched_tokens", "guessed")
    )
    tokens = np.zeros(len(engines))
    for place, engine in enumerate(engines):
        held, fits = cache_tokens(shape, job, engine.layout, sequences[place : place + 1], batched[place : place + 1])
        tokens[place] = held[0] if fits[0] else 0.0
    places = np.array([layouts.index(engine.layout) for engine in engines], dtype=np.int64)
    return Engines(layouts, places, sequences, batched, guessed, tokens)


def cache_tokens(
    shape: ModelShape, job: Job, layout: Layout, sequences: Numbers, batched_tokens: Numbers
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Tokens that the cache holds under each of these limits, and whether the job's longest request fits in it."""
    bare = layout.memory(shape, 0, 0)  # of its terms the activations alone depend on the limits
    cache = (bare.cache - activations_gib(shape, layout.split, batched_tokens, sequences)) * GIB
    blocks = np.floor(np.maximum(cache, 0.0) / (bare.kv_bytes_per_token * BLOCK_TOKENS))
    tokens = blocks * BLOCK_TOKENS
    if bare.kv_tokens():
        held, longest = (float(bare.tokens_held(n)) / bare.kv_tokens() for n in (_held(job), job.longest))
    else:
        held = longest = 1.0
    # A prefix that many share is kept once: what a sequence has of its own is that much less.
    own = _held(job) / max(_held(job) - job.lengths.cached, 1.0) if job.shared_prefix else 1.0
    return tokens * held * own, tokens * longest >= job.longest


def _held(job: Job) -> float:
    return float(job.lengths.held)


def _why(tokens: Numbers, fits: NDArray[np.bool_]) -> str:
    if not tokens[~fits].any():
        return "weights and activations leave no memory for the KV cache"
    return "the KV cache is too small for the longest request"
