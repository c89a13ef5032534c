"""What a GPU's memory holds beside the KV cache, and how many tokens are left room for.

KV bytes = u * M - weights - R, with u the share that the engine may use. R is what vLLM measures by a dummy step of the
largest batch before it sizes the cache: the activations of that step, or the sampler's numbers if they take more, and
what libraries load. Correct it by the block count that an engine logs when it starts (`reserve_gib`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.precision import kv_bytes, precisions
from optimizer.planner.step import ALONE, Split, kv_bytes_read
from optimizer.planner.weights import weights_of
from serving.engine_config import ModelShape

Amount = float | NDArray[np.float64]
GIB = 2.0**30

# CUDA's context is there before vLLM's first look at the memory and so is no part of R; what is loaded after it is.
LIBRARIES_GIB = 0.2
RANKS_GIB = 0.4  # of ranks that reduce: buffers of NCCL and of vLLM's own all-reduce
# Cards whose size is told as nvidia-smi prints it; the driver keeps this much of it from every program.
DRIVER_GIB = {"Hopper": 0.5, "Blackwell": 0.6, "Blackwell Ultra": 0.6, "Ada": 0.5}
AS_PROGRAMS_SEE = {"RTX 4090", "RTX 5090", "RTX 6000 Ada", "GH200-96GB", "GH200-144GB"}  # told without that part
LIVE_HIDDEN = 3.0  # copies of the residual's width that live while an MLP is computed: residual, input, output
LIVE_MLP = 3.0  # of the MLP's width: gate, up, and their product
# Of a logit while its sampler is profiled, with a top-k and a top-p: as 16 and 32 bit, as a probability, and as what is
# drawn from. Until some 0.16 vLLM sorted them: as 16 and 32 bit, sorted, with places of 8 bytes twice, and a second
# copy of both (PyTorch, SortStable.cu; 37 bytes measured in vllm-project/vllm 33538, whose kernels need no order).
SAMPLER_BYTES = 14.0
SORTED_BYTES = 38.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one rank, GiB."""

    usable: float  # what the engine may take
    free_share: float  # of what is then left, that the cache gets
    weights: float
    activations: float  # at their peak: of the largest step, or of the sampler after it
    engine: float
    kv_bytes_per_token: float  # in bytes, all of the rank's layers
    windowed_share: float  # of those bytes, in layers that keep only a window
    window: int

    @property
    def cache(self) -> float:
        left = self.usable - self.weights - self.activations - self.engine
        return left * self.free_share if left > 0 else left

    @property
    def fits(self) -> bool:
        return self.cache > 0

    def blocks(self, block_tokens: int = 16) -> int:
        return max(0, int(self.cache * GIB // (self.kv_bytes_per_token * block_tokens)))

    def kv_tokens(self, block_tokens: int = 16) -> int:
        return self.blocks(block_tokens) * block_tokens

    def tokens_held(self, length: Amount, block_tokens: int = 16) -> Amount:
        """Tokens of sequences of this length that there is room for: windowed layers keep no more than the window."""
        kept = 1 - self.windowed_share * (1 - np.minimum(1.0, self.window / np.maximum(length, 1.0)))
        return self.kv_tokens(block_tokens) / kept


def memory_of(
    shape: ModelShape,
    gpu: Gpu,
    split: Split = ALONE,
    weight_dtype: str = "auto",
    kv_dtype: str = "auto",
    *,
    utilization: float = 0.9,
    of_free: bool = False,
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    sampler_bytes: float = SAMPLER_BYTES,
    reserve_gib: float = 0.0,
) -> Memory:
    """`utilization` is of the whole memory (vLLM), or `of_free`, of what weights leave (TensorRT-LLM)."""
    weights, schemes = weights_of(shape), precisions(weight_dtype, gpu)
    across = 1 if split.experts_whole else split.tensor
    whole = split.pipeline == 1  # else a stage has the head or the embedding, not both
    held = (
        weights.linear * schemes.linear.weight_bytes / across / split.pipeline
        + weights.experts * schemes.experts.weight_bytes / split.tensor / split.pipeline
        + (weights.head + weights.embedding if whole else max(weights.head, weights.embedding)) * 2.0 / across
    )
    full, windowed = kv_bytes_read(shape, across, kv_bytes(kv_dtype))
    driver = 0.0 if gpu.name in AS_PROGRAMS_SEE else DRIVER_GIB.get(gpu.architecture, 0.0)
    return Memory(
        usable=(gpu.memory_gib - driver) * (1.0 if of_free else utilization),
        free_share=utilization if of_free else 1.0,
        weights=held / GIB,
        activations=float(activations_gib(shape, split, max_num_batched_tokens, max_num_seqs, sampler_bytes)),
        engine=LIBRARIES_GIB + (RANKS_GIB if split.ranks > 1 else 0.0) + reserve_gib,
        kv_bytes_per_token=(full + windowed) / split.pipeline,
        windowed_share=windowed / (full + windowed),
        window=shape.window,
    )


def activations_gib(
    shape: ModelShape,
    split: Split,
    max_num_batched_tokens: Amount,
    max_num_seqs: Amount,
    sampler_bytes: float = SAMPLER_BYTES,
) -> Amount:
    """Of one rank at their peak: in the largest step, or in the sampler after it. The limits may be arrays."""
    across = 1 if split.experts_whole else split.tensor
    mlp = LIVE_MLP * shape.intermediate / across
    routed = shape.experts_per_token * (LIVE_MLP * shape.expert_intermediate / split.tensor + shape.hidden)
    heads = 2.0 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim / across
    live = LIVE_HIDDEN * shape.hidden + max(mlp if not shape.experts or shape.dense_layers else 0.0, routed, heads)
    step, sampler = 2.0 * live * max_num_batched_tokens, sampler_bytes * shape.vocabulary * max_num_seqs
    return np.maximum(step, sampler)[()] / GIB
