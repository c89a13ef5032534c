"""What is refused before anything loads, on made-up machines and models: the reason, and the nearest that can."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.engine_config import (
    Batching,
    Draft,
    EngineConfig,
    PagedCache,
    Parallelism,
    Precision,
    Speculation,
)
from serving.engines.fits import check_fit, reasons_against
from serving.engines.gpus import Gpu
from serving.engines.machine import GIB, CannotRun, Machine, settled
from serving.models.folder import ModelFolder

OLD_CPU = Machine("an old Xeon", tuple(range(12)), frozenset({"avx2"}), 16 * GIB, 8 * GIB, ())
NEW_CPU = replace(OLD_CPU, flags=frozenset({"avx512f", "amx_tile", "amx_int8", "amx_bf16", "avx512_bf16"}))
T4, A100 = Gpu("T4", 16 * GIB, 7.5), Gpu("A100", 80 * GIB, 8.0)
L4, H100, B200 = Gpu("L4", 24 * GIB, 8.9), Gpu("H100", 80 * GIB, 9.0), Gpu("B200", 180 * GIB, 10.0)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
}


def on(*gpus: Gpu) -> Machine:
    return replace(OLD_CPU, gpus=gpus)


def model_in(folder: Path, tokenizer: str = "{}", **config: Any) -> ModelFolder:
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text(tokenizer)
    return ModelFolder.open(folder)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    return model_in(tmp_path / "small")


def against(config: EngineConfig, model: ModelFolder, machine: Machine) -> str:
    return "\n".join(reasons_against(settled(config, machine), model, machine))


FITS: list[tuple[EngineConfig, Machine]] = [
    (EngineConfig(), OLD_CPU),
    (EngineConfig(precision=Precision("float16")), on(T4)),
    (EngineConfig(), on(H100)),
    (EngineConfig(parallelism=Parallelism(tensor=8)), on(*[H100] * 8)),  # four KV heads are held twice
    (EngineConfig(parallelism=Parallelism(tensor=2, pipeline=2, data=2)), on(*[H100] * 8)),
    (EngineConfig(cache=PagedCache(dtype="fp8")), on(L4)),
    (EngineConfig(cache=PagedCache(dtype="fp8", memory_gib=1)), NEW_CPU),
    (EngineConfig(cache=PagedCache(memory_share=0.5, offload_gib=4)), on(H100)),
    (EngineConfig(precision=Precision(quantize="fp8")), on(A100)),
    (EngineConfig(precision=Precision(quantize="int8")), NEW_CPU),
    (EngineConfig(speculation=Speculation(Draft.NGRAM)), OLD_CPU),
    (EngineConfig(batching=Batching(chunked_prefill=False)), OLD_CPU),
    (EngineConfig(batching=Batching(async_scheduling=True)), on(H100)),
]


@pytest.mark.parametrize(("config", "machine"), FITS)
def test_what_can_run_is_not_refused(config: EngineConfig, machine: Machine, model: ModelFolder) -> None:
    assert against(config, model, machine) == ""


REFUSED: list[tuple[EngineConfig, Machine, str]] = [
    (
        EngineConfig(parallelism=Parallelism(3)),
        OLD_CPU,
        "= 3 does not divide the 8 heads and 4 KV heads of small; use 2",
    ),
    (EngineConfig(parallelism=Parallelism(4)), on(H100, H100), "= 4 ranks, but this machine has 2 GPUs; use at most 2"),
    (EngineConfig(parallelism=Parallelism(2, 2, 4)), OLD_CPU, "= 16 ranks, but this machine has 12 cores"),
    (EngineConfig(parallelism=Parallelism(pipeline=5)), OLD_CPU, "small has 4 layers; use at most 4"),
    (EngineConfig(parallelism=Parallelism(expert=True)), on(H100), "small is dense and has no experts; leave it out"),
    (EngineConfig(), on(T4), 'bfloat16" needs compute capability 8.0, T4 has 7.5; use "float16"'),
    (EngineConfig(cache=PagedCache(dtype="fp8")), on(A100), 'needs compute capability 8.9, A100 has 8.0; use "auto"'),
    (EngineConfig(cache=PagedCache(dtype="fp8")), OLD_CPU, 'on a CPU its kernels need AVX-512 or AMX; use "auto"'),
    (EngineConfig(cache=PagedCache(block_tokens=40)), OLD_CPU, "block_size = 40 is no multiple of 16; use 32"),
    (EngineConfig(cache=PagedCache(memory_share=0.5)), OLD_CPU, "there is none; use engine.kv_gib"),
    (EngineConfig(cache=PagedCache(offload_gib=4)), OLD_CPU, "there is none; use engine.kv_gib"),
    (EngineConfig(cache=PagedCache(memory_gib=9)), OLD_CPU, "take 9.0 GiB, 8.0 GiB of memory are free; use a smaller"),
    (EngineConfig(cache=PagedCache(memory_gib=0.01)), OLD_CPU, "tokens, a sequence may have 2048; use 0.02, or"),
    (EngineConfig(precision=Precision(quantize="fp8")), OLD_CPU, 'CPU kernels need AMX; use "none" or a w8a8 model'),
    (EngineConfig(precision=Precision(quantize="int8")), OLD_CPU, 'computes in float32; set engine.dtype = "bfloat16"'),
    (EngineConfig(speculation=Speculation(Draft.MTP)), on(H100), 'no multi-token prediction layers; use "ngram"'),
    (EngineConfig(batching=Batching(64, 32)), OLD_CPU, "gives less than a token to each of 64 sequences; raise it"),
    (EngineConfig(batching=Batching(64, 512, chunked_prefill=False)), OLD_CPU, "a prompt may have 2048; raise it"),
    (EngineConfig(batching=Batching(async_scheduling=True)), OLD_CPU, "no second queue to overlap with; leave it out"),
    (EngineConfig(max_model_len=4096), OLD_CPU, "small was made for 2048; use at most 2048"),
]


@pytest.mark.parametrize(("config", "machine", "words"), REFUSED)
def test_what_cannot_run_is_refused_with_the_nearest_that_can(
    config: EngineConfig, machine: Machine, words: str, model: ModelFolder
) -> None:
    assert words in against(config, model, machine)


@pytest.mark.parametrize(
    ("precision", "machine", "words"),
    [
        ("w4a16", OLD_CPU, "CPU kernels need AVX-512; use a w8a8 or the full model"),
        ("w4a16", NEW_CPU, ""),
        ("w4a16", on(T4), ""),
        ("w8a8", OLD_CPU, ""),
        ("w8a8", on(B200), "INT8 W8A8, which has no kernel from 10.0 on, B200 has 10.0; use fp8"),
        ("fp8", OLD_CPU, "CPU kernels need AMX"),
        ("fp8", on(L4), ""),
    ],
)
def test_a_quantized_model_needs_the_kernels_of_its_kind(
    precision: str, machine: Machine, words: str, model: ModelFolder
) -> None:
    half = EngineConfig(precision=Precision("float16"))
    found = against(half, replace(model, precision=precision), machine)
    assert words in found if words else found == ""


def test_weights_that_no_gpu_holds_are_refused_with_the_sizes(model: ModelFolder) -> None:
    large = replace(model, size_bytes=140 * GIB)
    assert "140.0 GiB of weights" in against(EngineConfig(), large, on(H100))
    assert against(EngineConfig(parallelism=Parallelism(2)), large, on(H100, H100)) == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"vocab_size": 1001}, "a vocabulary of 1001 words, small has 1000"),
        ({"tokenizer": '{"a": 1}'}, "another tokenizer than small's"),
        ({}, ""),
    ],
)
def test_a_draft_model_speaks_the_language_of_its_model(
    config: dict[str, Any], words: str, model: ModelFolder, tmp_path: Path
) -> None:
    model_in(tmp_path / "draft", **config)
    asked = EngineConfig(speculation=Speculation(Draft.MODEL, model=str(tmp_path / "draft")))
    found = against(asked, model, OLD_CPU)
    assert words in found if words else found == ""


@pytest.mark.parametrize("draft", [Draft.EAGLE, Draft.EAGLE3, Draft.MEDUSA])
def test_heads_are_of_the_kind_that_is_asked_for(draft: Draft, model: ModelFolder, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    heads.mkdir()
    (heads / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    asked = EngineConfig(speculation=Speculation(draft, model=str(heads)))
    assert f"holds LlamaForCausalLM, not {draft} heads" in against(asked, model, on(H100))


def test_every_reason_is_given_at_once(model: ModelFolder) -> None:
    asked = settled(EngineConfig(parallelism=Parallelism(3), cache=PagedCache(block_tokens=40)), OLD_CPU)
    with pytest.raises(CannotRun, match=r"(?s)tensor_parallel = 3.*block_size = 40"):
        check_fit(asked, model, OLD_CPU)
