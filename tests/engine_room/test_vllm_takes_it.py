"""What cannot run without a GPU is taken to the end of vLLM's own checks: it makes a whole configuration of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.engine_config import (
    Adapters,
    Batching,
    Draft,
    EngineConfig,
    PagedCache,
    Parallelism,
    Precision,
    Speculation,
)
from serving.engines.machine import Machine
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import child_environment
from tests.engine_room.checkpoints import random_llama
from tests.engine_room.conftest import ROOT

pytestmark = pytest.mark.engines

# Each in turn, in a process of its own: vLLM is imported once for all of them.
ASK = """
import json, sys
from vllm import EngineArgs
for name, arguments in json.load(sys.stdin).items():
    try:
        config = EngineArgs(**arguments).create_engine_config()
        speculative = config.speculative_config
        said = {
            "speculation": speculative and [speculative.method, speculative.num_speculative_tokens],
            "acceptance": speculative and speculative.rejection_sample_method,
            "kv": str(config.cache_config.cache_dtype),
            "quantization": str(config.model_config.quantization),
            "ranks": [config.parallel_config.tensor_parallel_size, config.parallel_config.pipeline_parallel_size],
            "executor": str(config.parallel_config.distributed_executor_backend),
            "expert": config.parallel_config.enable_expert_parallel,
            "async": config.scheduler_config.async_scheduling,
        }
    except Exception as refusal:
        said = {"refused": f"{type(refusal).__name__}: {refusal}"}
    print(json.dumps({name: said}), flush=True)
"""
HEADS = {
    "eagle": {"architectures": ["EagleLlamaForCausalLM"], "model_type": "llama"},
    "eagle3": {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "draft_vocab_size": 49_152},
}


def heads(folder: Path, kind: str) -> str:
    """A head for the model of random_llama(8, 4): as its maker's config.json describes it."""
    sizes = {
        "hidden_size": 256, "vocab_size": 49_152, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 512, "num_hidden_layers": 1, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**sizes, **HEADS[kind]}))
    return str(folder)


def mixture(folder: Path, like: Path) -> Path:
    """A model of the same sizes with four experts; to configure it, vLLM needs none of its weights."""
    shutil.copytree(like, folder)
    config = json.loads((folder / "config.json").read_text())
    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    (folder / "config.json").write_text(json.dumps({**config, **experts, "architectures": ["MixtralForCausalLM"]}))
    return folder


@pytest.fixture(scope="module")
def said(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("takes")
    model = random_llama(folder / "eight", 8, 4)
    asked = {
        "eagle": EngineConfig(speculation=Speculation(Draft.EAGLE, 3, heads(folder / "eagle", "eagle"))),
        "eagle3": EngineConfig(speculation=Speculation(Draft.EAGLE3, 3, heads(folder / "eagle3", "eagle3"))),
        "block": EngineConfig(speculation=Speculation(Draft.NGRAM, 3, acceptance="block")),
        "fp8 kv": EngineConfig(cache=PagedCache(dtype="fp8")),
        "fp8": EngineConfig(precision=Precision("bfloat16", "fp8")),
        "int8": EngineConfig(precision=Precision("bfloat16", "int8")),
        "offload": EngineConfig(cache=PagedCache(offload_gib=1.0)),
        "async": EngineConfig(batching=Batching(async_scheduling=True)),
        "expert": EngineConfig(parallelism=Parallelism(tensor=2, expert=True)),
        "both": EngineConfig(parallelism=Parallelism(tensor=2, pipeline=2)),
        "lora": EngineConfig(adapters=Adapters((("french", str(folder)),), rank=16, at_once=2)),
    }
    models = {"expert": mixture(folder / "mixture", model)}
    arguments = {name: vllm_arguments(models.get(name, model), config) for name, config in asked.items()}
    environment = child_environment(EngineConfig(compiled=True), machine, None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK], input=json.dumps(arguments), env=environment, cwd=ROOT, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: answer for line in lines for name, answer in line.items()}


EXPECTED = [
    ("eagle", "speculation", ["eagle", 3]),
    ("eagle3", "speculation", ["eagle3", 3]),
    ("block", "acceptance", "block"),
    ("fp8 kv", "kv", "fp8"),
    ("fp8", "quantization", "fp8_per_tensor"),
    ("int8", "quantization", "int8_per_channel_weight_only"),
    ("offload", "ranks", [1, 1]),
    ("async", "async", False),  # vLLM takes it, and does without on a CPU
    ("expert", "expert", True),
    ("both", "ranks", [2, 2]),
    ("lora", "ranks", [1, 1]),
]


@pytest.mark.parametrize(("name", "field", "value"), EXPECTED)
def test_vllm_makes_a_configuration_of_it(said: dict[str, dict[str, Any]], name: str, field: str, value: Any) -> None:
    assert said[name].get(field) == value, said[name]
