"""The one translation of our settings into vLLM's EngineArgs, for CPUs and GPUs alike."""

from pathlib import Path
from typing import Any

from serving.engine_config import Draft, EngineConfig, Parallelism, Speculation

METHODS = {  # by vLLM's names
    Draft.NGRAM: "ngram",
    Draft.SUFFIX: "suffix",
    Draft.MODEL: "draft_model",
    Draft.EAGLE: "eagle",
    Draft.EAGLE3: "eagle3",
    Draft.MEDUSA: "medusa",
    Draft.MTP: "mtp",
}
ONLINE = {"fp8": "fp8_per_tensor", "int8": "int8_per_channel_weight_only"}
DYNAMO_TRACED_ONCE = 1  # vLLM's compilation mode in which nothing is generated
GIB = 2**30


def vllm_arguments(model: Path, config: EngineConfig) -> dict[str, Any]:
    """By vLLM's names; what is left to vLLM is not named. `config` is settled for the machine and fits it."""
    cache, batching, parallel = config.cache, config.batching, config.parallelism
    arguments: dict[str, Any] = {
        "model": str(model),
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": config.precision.weights,
        "quantization": ONLINE.get(config.precision.quantize),
        "block_size": cache.block_tokens,
        "kv_cache_dtype": cache.dtype,
        "kv_cache_memory_bytes": None if cache.memory_gib is None else int(cache.memory_gib * GIB),
        "gpu_memory_utilization": cache.memory_share,
        "kv_offloading_size": cache.offload_gib or None,
        "enable_prefix_caching": cache.prefix_caching,
        # A hash that can be made to collide would hand one prompt the cache of another, so xxhash is not offered.
        "prefix_caching_hash_algo": cache.prefix_hash,
        "max_num_seqs": batching.max_num_seqs,
        "max_num_batched_tokens": batching.max_num_batched_tokens,
        "enable_chunked_prefill": batching.chunked_prefill,
        "async_scheduling": batching.async_scheduling,
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": parallel.tensor,
        "pipeline_parallel_size": parallel.pipeline,
        "enable_expert_parallel": parallel.expert,
        "distributed_executor_backend": _executor(parallel),
        "speculative_config": _speculation(config.speculation),
        **_compiled(config),
        **_adapters(config),
    }
    if config.speculation.draft is not Draft.OFF:
        arguments["per_request_spec_decode_metrics"] = "summary"
    return {name: value for name, value in arguments.items() if value is not None}


def _executor(parallel: Parallelism) -> str:
    if parallel.executor == "auto":
        return "uni" if parallel.ranks == 1 else "mp"
    return parallel.executor


def _speculation(speculation: Speculation) -> dict[str, Any] | None:
    if speculation.draft is Draft.OFF:
        return None
    found: dict[str, Any] = {
        "method": METHODS[speculation.draft],
        "num_speculative_tokens": speculation.tokens,
        "rejection_sample_method": speculation.acceptance,
        "model": speculation.model,
    }
    if speculation.draft is Draft.NGRAM:
        found["prompt_lookup_min"], found["prompt_lookup_max"] = speculation.lookup
    return {name: value for name, value in found.items() if value is not None}


def _compiled(config: EngineConfig) -> dict[str, Any]:
    """A pipeline hands tensors from stage to stage only where the model was traced, even if nothing is compiled."""
    if not config.compiled and config.parallelism.pipeline > 1:
        return {"compilation_config": {"mode": DYNAMO_TRACED_ONCE, "backend": "eager"}}
    return {"enforce_eager": not config.compiled}


def _adapters(config: EngineConfig) -> dict[str, Any]:
    adapters = config.adapters
    if not adapters.folders:
        return {}
    return {"enable_lora": True, "max_loras": adapters.at_once, "max_lora_rank": adapters.rank}
