"""Can this engine run here? Each rule that can say no gives the reason and the nearest that can. Nothing is loaded.

What vLLM itself refuses is taken from its sources at 0.32 (config/model.py, attention/backends/cpu_attn.py,
model_executor/layers/quantization/, docs/features/quantization); it would say so minutes later, or die at a first step.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from serving.engine_config import Draft, EngineConfig, ModelShape
from serving.engines.machine import GIB, CannotRun, Machine, kv_bytes_per_number
from serving.models.folder import ModelFolder
from serving.models.heads import heads_in
from serving.models.shape import shape_of

AMPERE, ADA, BLACKWELL = 8.0, 8.9, 10.0
KV_BLOCK_STEP = 16  # tokens; the attention kernels of every back end take multiples of it
GPU_SHARE = 0.92  # of a GPU's memory, vLLM's own default
HEADS_OF = {Draft.EAGLE: "eagle", Draft.EAGLE3: "eagle3", Draft.MEDUSA: "medusa"}
FOUR_BIT = ("w4a16", "awq", "gptq", "mxfp4", "nvfp4")


@dataclass(frozen=True, slots=True)
class Asked:
    config: EngineConfig  # settled for the machine
    model: ModelFolder
    shape: ModelShape
    machine: Machine
    python: str | None = None  # another interpreter runs the engine; what it has installed, it says itself


Rule = Callable[[Asked], Iterator[str]]


def check_fit(config: EngineConfig, model: ModelFolder, machine: Machine, python: str | None = None) -> None:
    """Raises CannotRun with everything that stands in the way, a line each."""
    if reasons := list(reasons_against(config, model, machine, python)):
        raise CannotRun("\n".join(reasons))


def reasons_against(
    config: EngineConfig, model: ModelFolder, machine: Machine, python: str | None = None
) -> Iterator[str]:
    asked = Asked(config, model, shape_of(model), machine, python)
    for rule in RULES:
        yield from rule(asked)


def _every_rank_has_a_place(asked: Asked) -> Iterator[str]:
    parallel, places = asked.config.parallelism, asked.machine.places
    wanted = parallel.ranks * parallel.data
    if wanted > max(places, 1):
        kind = "GPUs" if asked.machine.has_gpu else "cores"
        product = f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {parallel.data} = {wanted} ranks"
        yield f"engine.*_parallel: {product}, but this machine has {places} {kind}; use at most {places}"


def _heads_divide(asked: Asked) -> Iterator[str]:
    tensor, shape = asked.config.parallelism.tensor, asked.shape
    if not _divides(tensor, shape):
        fits = max(ranks for ranks in range(1, tensor + 1) if _divides(ranks, shape))
        heads = f"{shape.heads} heads and {shape.kv_heads} KV heads"
        yield f"engine.tensor_parallel = {tensor} does not divide the {heads} of {asked.model.name}; use {fits}"


def _divides(tensor: int, shape: ModelShape) -> bool:
    kv = shape.kv_heads
    return shape.heads % tensor == 0 and (kv % tensor == 0 or tensor % kv == 0)


def _layers_fill_the_pipeline(asked: Asked) -> Iterator[str]:
    stages, layers = asked.config.parallelism.pipeline, asked.shape.layers
    if stages > layers:
        yield f"engine.pipeline_parallel = {stages}, but {asked.model.name} has {layers} layers; use at most {layers}"


def _experts_are_there(asked: Asked) -> Iterator[str]:
    if asked.config.parallelism.expert and not asked.shape.experts:
        yield f"engine.expert_parallel: {asked.model.name} is dense and has no experts; leave it out"


def _ray_is_there(asked: Asked) -> Iterator[str]:
    if asked.config.parallelism.executor == "ray" and not _has("ray", asked.python):
        yield 'engine.executor = "ray", but ray is not installed; use "mp", or `pip install ray`'


def _computes_in_what_it_can(asked: Asked) -> Iterator[str]:
    machine = asked.machine
    if machine.has_gpu and machine.capability < AMPERE and asked.config.precision.weights == "bfloat16":
        yield f'engine.dtype = "bfloat16" needs compute capability {AMPERE}, {_gpu(machine)}; use "float16"'


def _weights_have_a_kernel(asked: Asked) -> Iterator[str]:
    machine, precision = asked.machine, asked.model.precision
    four_bit = precision.startswith(FOUR_BIT)
    if four_bit and not machine.has_gpu and "avx512f" not in machine.flags:
        yield f"{asked.model.name} is {precision}, whose CPU kernels need AVX-512; use a w8a8 or the full model"
    if precision == "w8a8" and machine.capability >= BLACKWELL:
        yield f"{asked.model.name} is INT8 W8A8, which has no kernel from {BLACKWELL} on, {_gpu(machine)}; use fp8"
    if precision == "fp8" and (why := _no_fp8(machine)):
        yield f"{asked.model.name} is fp8, {why}; use a w8a8 or the full model"


def _quantizes_while_loading(asked: Asked) -> Iterator[str]:
    quantize = asked.config.precision.quantize
    if quantize == "none":
        return
    if asked.model.precision not in ("bf16", "fp16", "fp32"):
        yield f'engine.quantize = "{quantize}", but {asked.model.name} is {asked.model.precision} already; leave it out'
    if quantize == "fp8" and (why := _no_fp8(asked.machine)):
        yield f'engine.quantize = "fp8", {why}; use "none" or a w8a8 model'
    if quantize == "int8" and asked.config.precision.weights == "float32":
        way_out = 'set engine.dtype = "bfloat16", or use a w8a8 model (`gristmill models quantize`)'
        yield f'engine.quantize = "int8" multiplies in 16 bits, and this engine computes in float32; {way_out}'


def _no_fp8(machine: Machine) -> str | None:
    if not machine.has_gpu:
        return None if "amx_int8" in machine.flags else "whose CPU kernels need AMX"
    return f"which needs compute capability {AMPERE}, {_gpu(machine)}" if machine.capability < AMPERE else None


def _cache_is_possible(asked: Asked) -> Iterator[str]:
    cache, machine = asked.config.cache, asked.machine
    if cache.dtype.startswith("fp8"):
        if machine.has_gpu and machine.capability < ADA:
            yield f'engine.kv_dtype = "{cache.dtype}" needs compute capability {ADA}, {_gpu(machine)}; use "auto"'
        if not machine.has_gpu and not {"avx512f", "amx_tile"} & machine.flags:
            yield f'engine.kv_dtype = "{cache.dtype}": on a CPU its kernels need AVX-512 or AMX; use "auto"'
        if not machine.has_gpu and asked.shape.head_dim % 32:
            heads = f"heads of {asked.shape.head_dim}"
            yield f'engine.kv_dtype = "{cache.dtype}": {heads} are no multiple of 32; use "auto"'
    if cache.block_tokens is not None and cache.block_tokens % KV_BLOCK_STEP:
        below = max(KV_BLOCK_STEP, cache.block_tokens // KV_BLOCK_STEP * KV_BLOCK_STEP)
        yield f"engine.block_size = {cache.block_tokens} is no multiple of {KV_BLOCK_STEP}; use {below}"
    if not machine.has_gpu and cache.memory_share is not None:
        yield "engine.kv_share is a share of a GPU's memory, and there is none; use engine.kv_gib"
    if not machine.has_gpu and cache.offload_gib:
        yield "engine.kv_offload_gib moves blocks from a GPU to the host, and there is none; use engine.kv_gib"


def _memory_suffices(asked: Asked) -> Iterator[str]:
    """Weights as they lie on disk, and one sequence of full length; what else an engine needs is its own business."""
    config, machine, parallel = asked.config, asked.machine, asked.config.parallelism
    needed = asked.model.size_bytes / parallel.ranks
    longest = config.max_model_len or asked.shape.max_model_len
    one_sequence = asked.shape.kv_bytes_per_token(kv_bytes_per_number(config)) * longest / parallel.ranks
    if machine.has_gpu:
        has = min(gpu.memory_bytes for gpu in machine.gpus) * (config.cache.memory_share or GPU_SHARE)
        if needed + one_sequence > has:
            more = "more engine.tensor_parallel, a quantized model, or a smaller engine.max_model_len"
            yield (
                f"{asked.model.name}: {needed / GIB:.1f} GiB of weights and {one_sequence / GIB:.1f} GiB of KV cache"
                f" for one sequence on each GPU, which has {has / GIB:.1f}; use {more}"
            )
        return
    wanted = (needed + (config.cache.memory_gib or 0) * GIB) * parallel.ranks * parallel.data
    if wanted > machine.available_bytes:
        free = f"{machine.available_bytes / GIB:.1f} GiB of memory are free"
        way_out = "use a smaller engine.kv_gib or a quantized model"
        yield f"{asked.model.name}: weights and KV cache take {wanted / GIB:.1f} GiB, {free}; {way_out}"
    elif config.cache.memory_gib is not None and one_sequence > config.cache.memory_gib * GIB:
        fits = int(config.cache.memory_gib * GIB * longest / one_sequence)
        yield (
            f"engine.kv_gib = {config.cache.memory_gib} holds {fits} tokens, a sequence may have {longest};"
            f" use {one_sequence / GIB:.2f}, or engine.max_model_len = {fits}"
        )


def _batches_are_possible(asked: Asked) -> Iterator[str]:
    batching, longest = asked.config.batching, asked.config.max_model_len or asked.shape.max_model_len
    if batching.max_num_batched_tokens < batching.max_num_seqs:
        tokens = f"engine.max_num_batched_tokens = {batching.max_num_batched_tokens}"
        yield f"{tokens} gives less than a token to each of {batching.max_num_seqs} sequences; raise it"
    if not batching.chunked_prefill and batching.max_num_batched_tokens < longest:
        yield (
            f"engine.chunked_prefill = false, so a whole prompt must fit a step: max_num_batched_tokens ="
            f" {batching.max_num_batched_tokens}, a prompt may have {longest}; raise it, or lower engine.max_model_len"
        )
    if batching.async_scheduling and not asked.machine.has_gpu:
        yield "engine.async_scheduling = true: a CPU has no second queue to overlap with; leave it out"
    if asked.config.max_model_len and asked.config.max_model_len > asked.shape.max_model_len:
        most = asked.shape.max_model_len
        yield f"engine.max_model_len = {longest}, but {asked.model.name} was made for {most}; use at most {most}"


def _draft_fits_the_model(asked: Asked) -> Iterator[str]:
    speculation, model = asked.config.speculation, asked.model
    kind, folder = speculation.draft, speculation.model
    if kind is Draft.SUFFIX and not _has("arctic_inference", asked.python):
        way_out = '"ngram", or `make suffix`, which builds arctic-inference'
        yield f'engine.speculation = "suffix" needs the package arctic-inference, which is not installed; use {way_out}'
    if kind is Draft.MTP and not asked.shape.mtp_layers:
        yield f'engine.speculation = "mtp": {model.name} brings no multi-token prediction layers; use "ngram"'
    if kind in HEADS_OF and folder is not None:
        found = heads_in(Path(folder))
        if HEADS_OF[kind] not in found.lower():
            yield f"engine.speculation_model = '{folder}' holds {found}, not {HEADS_OF[kind]} heads; name others"
    elif folder is not None:
        yield from _draft_model_fits(asked, folder, ModelFolder.open(Path(folder)))


def _draft_model_fits(asked: Asked, folder: str, draft: ModelFolder) -> Iterator[str]:
    key, model = f"engine.speculation_model = '{folder}'", asked.model
    if draft.vocab_size != model.vocab_size:
        sizes = f"{draft.vocab_size} words, {model.name} has {model.vocab_size}"
        yield f"{key}: a vocabulary of {sizes}; use a smaller model of its family"
    elif draft.tokenizer_json.read_bytes() != model.tokenizer_json.read_bytes():
        yield f"{key}: another tokenizer than {model.name}'s; use a smaller model of its family"
    if not _divides(asked.config.parallelism.tensor, shape_of(draft)):
        yield f"{key}: its heads do not divide by engine.tensor_parallel; lower that"


def _has(package: str, python: str | None) -> bool:
    """True if it is installed, or if that is another interpreter's business."""
    return (python is not None and python != sys.executable) or find_spec(package) is not None


def _gpu(machine: Machine) -> str:
    least = min(machine.gpus, key=lambda gpu: gpu.capability)
    return f"{least.name} has {least.capability}"


RULES: tuple[Rule, ...] = (
    _every_rank_has_a_place,
    _heads_divide,
    _layers_fill_the_pipeline,
    _experts_are_there,
    _ray_is_there,
    _computes_in_what_it_can,
    _weights_have_a_kernel,
    _quantizes_while_loading,
    _cache_is_possible,
    _memory_suffices,
    _batches_are_possible,
    _draft_fits_the_model,
)
