"""A deployment: what runs where, what a step of it takes, what it holds, and which constants it shares with others."""

from dataclasses import dataclass
from functools import cache

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.calibration import Calibration, Groups, shipped
from optimizer.planner.engines import Defaults, version_number
from optimizer.planner.memory import Memory, memory_of
from optimizer.planner.precision import kv_bytes, precisions
from optimizer.planner.step import Split, StepCost, step_cost
from serving.engine_config import ModelShape

LEAST_STEP_TOKENS, LEAST_SEQUENCES = 2048, 128  # vLLM's own for a server on smaller GPUs, and half of them
# Of vLLM's engine V0 over several GPUs, besides what V1 holds: probably all that its allocator had reserved. Told by
# Llama-2-70B on four A100-40GB at 16 offered (Argonne LLM-Inference-Bench): the rates of 512, 1,024 and 2,048 tokens in
# and out are those of as many sequences as 8,400 tokens of cache hold, to 4 %.
V0_RANKS_GIB = 1.75


@dataclass(frozen=True, slots=True)
class Deployment:
    shape: ModelShape
    gpu: Gpu
    split: Split
    weight_dtype: str
    kv_dtype: str


@cache
def memory_for(plan: Deployment, defaults: Defaults) -> Memory:
    def held(step_tokens: int, sequences: int) -> Memory:
        return memory_of(
            plan.shape,
            plan.gpu,
            plan.split,
            plan.weight_dtype,
            plan.kv_dtype,
            utilization=defaults.utilization,
            of_free=defaults.of_free,
            max_num_batched_tokens=step_tokens,
            max_num_seqs=sequences,
            sampler_bytes=defaults.sampler_bytes,
            reserve_gib=V0_RANKS_GIB if defaults.era == "vllm-v0" and plan.split.ranks > 1 else 0.0,
        )

    usual = held(defaults.max_num_batched_tokens, defaults.max_num_seqs)
    # Who finds no room with the default step takes a smaller one, of fewer sequences.
    least = min(LEAST_STEP_TOKENS, defaults.max_num_batched_tokens), min(LEAST_SEQUENCES, defaults.max_num_seqs)
    return usual if usual.fits else held(*least)


@cache
def cost_of(plan: Deployment) -> StepCost:
    """With priors for constants."""
    return step_cost(plan.shape, plan.gpu, plan.split, plan.weight_dtype, plan.kv_dtype)


def calibrated_cost(
    plan: Deployment,
    defaults: Defaults,
    version: str = "",
    *,
    served: bool = False,
    calibration: Calibration | None = None,
) -> StepCost:
    """What a step of one plan takes, with the constants that are shipped unless others are given."""
    groups = groups_of(plan, defaults, version, served=served)
    return cost_of(plan).calibrated((calibration or shipped()).constants_of(groups))


def groups_of(plan: Deployment, defaults: Defaults, version: str, *, served: bool) -> Groups:
    """What a plan shares constants by, see calibration. Raises UnknownPrecision."""
    schemes, shape, gpu = precisions(plan.weight_dtype, plan.gpu), plan.shape, plan.gpu
    narrow = kv_bytes(plan.kv_dtype) < 2
    release = version_number(version)
    # Of experts' formats each has measured kernels of its own, so that what is left is alike whether they widen or not.
    experts = schemes.experts.name.removesuffix(" weights")
    grouped = not shape.kv_lora_rank and shape.kv_heads < shape.heads
    groups = [
        f"engine:{defaults.engine}",
        f"version:{defaults.era}",
        f"release:{defaults.engine} {release[0]}.{release[1]}" if release else f"release:{defaults.engine}",
        f"load:{defaults.era} {'served' if served else 'offline'}",
        f"architecture:{gpu.architecture}",
        f"gpu:{gpu.name}",
        f"mixture:{defaults.engine} {experts}" if shape.experts else f"weights:{defaults.engine} {schemes.linear.name}",
        f"kv:{defaults.engine} {'fp8' if narrow else '16 bit'}",
    ]
    # Old kernels read a KV head once for each of the query heads that share it.
    if defaults.era == "vllm-v0" and narrow:
        groups.append(f"attention:vllm-v0 fp8 {'converted' if gpu.fp8_tflops else 'emulated'}")
    elif defaults.era in {"vllm-v0", "trtllm-static"} and grouped:
        groups.append(f"attention:{defaults.era} grouped")
    return tuple(groups)
