"""Models by the names that repositories, quantizers and others' tables of measurements use."""

from pathlib import Path

import pytest

from optimizer.catalogue.catalogue import BadCatalogue, Catalogue, UnknownName, model, shipped

AS_OTHERS_WRITE = {
    "01-ai/Yi-34B": "Yi-34B",
    "BAAI/Aquila-7B": "Aquila-7B",
    "Deci/DeciLM-7B": "DeciLM-7B",
    "Deepseek R1 0528": "DeepSeek-V3",
    "EleutherAI/gpt-j-6b": "GPT-J-6B",
    "Falcon 180B": "Falcon-180B",
    "GPT-J 6B": "GPT-J-6B",
    "GPT-OSS 120B": "gpt-oss-120b",
    "GPT-OSS 20B": "gpt-oss-20b",
    "LLaMA 70B": "Llama-2-70B",
    "LLaMA 7B": "Llama-2-7B",
    "LLaMA v3.1 405B": "Llama-3.1-405B",
    "LLaMA v3.1 70B": "Llama-3.1-70B",
    "LLaMA v3.1 8B": "Llama-3.1-8B",
    "LLaMA v3.3 70B": "Llama-3.3-70B",
    "LLaMA v4 Maverick": "Llama-4-Maverick-17B-128E",
    "Llama 3.1 405B": "Llama-3.1-405B",
    "Llama 3.1 8B": "Llama-3.1-8B",
    "Llama 3.3 70B": "Llama-3.3-70B",
    "Llama 4 Maverick": "Llama-4-Maverick-17B-128E",
    "Llama 4 Scout": "Llama-4-Scout-17B-16E",
    "Mistral 7B": "Mistral-7B-v0.1",
    "Mixtral 8x22B": "Mixtral-8x22B",
    "Mixtral 8x7B": "Mixtral-8x7B",
    "Qwen/Qwen1.5-7B": "Qwen1.5-7B",
    "Qwen/Qwen2-72B": "Qwen2-72B",
    "Qwen/Qwen2-7B": "Qwen2-7B",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen2.5-7B",
    "Qwen/Qwen3-14B": "Qwen3-14B",
    "Qwen/Qwen3-32B": "Qwen3-32B",
    "Qwen2.5-0.5B-Instruct": "Qwen2.5-0.5B",
    "Qwen2.5-1.5B-Instruct": "Qwen2.5-1.5B",
    "Qwen2.5-14B-Instruct": "Qwen2.5-14B",
    "Qwen2.5-32B-Instruct": "Qwen2.5-32B",
    "Qwen2.5-3B-Instruct": "Qwen2.5-3B",
    "Qwen2.5-72B-Instruct": "Qwen2.5-72B",
    "Qwen2.5-7B-Instruct": "Qwen2.5-7B",
    "Qwen3 235B A22B": "Qwen3-235B-A22B",
    "Qwen3 30B A3B": "Qwen3-30B-A3B",
    "Qwen3-235B-A22B": "Qwen3-235B-A22B",
    "Qwen3-30B-A3B": "Qwen3-30B-A3B",
    "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic": "Llama-4-Scout-17B-16E",
    "bigscience/bloom-7b1": "BLOOM-7b1",
    "codellama/CodeLlama-34b-Instruct-hf": "CodeLlama-34B",
    "deepseek-r1": "DeepSeek-V3",
    "facebook/opt-6.7b": "OPT-6.7B",
    "gptj-99": "GPT-J-6B",
    "huggyllama/llama-7b": "Llama-1-7B",
    "llama2-70b-99": "Llama-2-70B",
    "llama2-70b-99.9": "Llama-2-70B",
    "llama3.1-405b": "Llama-3.1-405B",
    "llama3.1-8b": "Llama-3.1-8B",
    "llama3.1-8b-datacenter": "Llama-3.1-8B",
    "meta-llama/Llama-2-70b-hf": "Llama-2-70B",
    "meta-llama/Llama-2-7b-hf": "Llama-2-7B",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-70B-Instruct": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-70B": "Llama-3-70B",
    "meta-llama/Meta-Llama-3-8B": "Llama-3-8B",
    "mistralai/Mistral-7B-v0.1": "Mistral-7B-v0.1",
    "mistralai/Mistral-Nemo-Instruct-2407": "Mistral-Nemo-12B",
    "mistralai/Mixtral-8x22B-Instruct-v0.1": "Mixtral-8x22B",
    "mistralai/Mixtral-8x22B-v0.1": "Mixtral-8x22B",
    "mistralai/Mixtral-8x7B-v0.1": "Mixtral-8x7B",
    "mixtral-8x7b": "Mixtral-8x7B",
    "openai/gpt-oss-120b": "gpt-oss-120b",
}
QUANTIZED = {
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic": ("Llama-3.1-8B", "fp8"),
    "amd/Llama-3.1-405B-Instruct-FP8-KV": ("Llama-3.1-405B", "fp8"),
    "Qwen/Qwen3-32B-FP8": ("Qwen3-32B", "fp8"),
    "nvidia/Llama-3.3-70B-Instruct-FP4": ("Llama-3.3-70B", "nvfp4"),
    "neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w8a8": ("Llama-3.1-70B", "w8a8"),
    "RedHatAI/Llama-3.3-70B-Instruct-quantized.w4a16": ("Llama-3.3-70B", "w4a16"),
    "Qwen/Qwen2.5-32B-Instruct-AWQ": ("Qwen2.5-32B", "awq"),
    "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": ("Llama-3.1-8B", "awq"),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": ("Qwen2.5-7B", "gptq-int4"),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8": ("Qwen2.5-7B", "gptq-int8"),
    "TheBloke/Llama-2-7B-Chat-GPTQ": ("Llama-2-7B", "gptq-int4"),
    "unsloth/Llama-3.2-1B-Instruct-bnb-4bit": ("Llama-3.2-1B", "int4"),
}


@pytest.mark.parametrize("name", AS_OTHERS_WRITE)
def test_a_model_is_found_by_the_names_it_goes_by(name: str) -> None:
    assert model(name).name == AS_OTHERS_WRITE[name]


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_suffix_names_the_quantization_and_changes_no_size(name: str) -> None:
    found = model(name)
    assert (found.name, found.quantization) == QUANTIZED[name]


def test_without_a_suffix_the_quantization_is_that_of_the_original() -> None:
    assert model("openai/gpt-oss-20b").quantization == "mxfp4"
    assert model("deepseek-ai/DeepSeek-V3").quantization == "fp8"
    assert model("meta-llama/Llama-3.1-8B").quantization is None


def test_a_suffix_of_16_bits_says_that_the_original_was_unpacked() -> None:
    assert model("unsloth/DeepSeek-V3-bf16").quantization is None


@pytest.mark.parametrize("name", shipped().model_names)
def test_every_model_is_found_by_its_own_name_and_has_a_source(name: str) -> None:
    found = model(name)
    assert found.name == name
    assert found.source


@pytest.mark.parametrize("name", shipped().model_names)
def test_every_shape_holds_together(name: str) -> None:
    shape = model(name).shape
    assert shape.heads % shape.kv_heads == 0
    assert shape.intermediate > 0
    assert bool(shape.experts) == bool(shape.experts_per_token) == bool(shape.expert_intermediate)
    assert shape.experts_per_token <= shape.experts
    assert shape.dense_layers < shape.layers
    assert bool(shape.kv_lora_rank) == bool(shape.rope_head_dim) == bool(shape.value_head_dim)
    assert bool(shape.window) == bool(shape.windowed_layers)
    assert shape.windowed_layers <= shape.layers


def test_an_unknown_model_names_the_nearest_ones_and_how_to_add_it() -> None:
    with pytest.raises(UnknownName, match=r"model 'Llama-3\.1-9B' .*Llama-3\.1-8B.*\[models\.'Llama-3\.1-9B'\]"):
        model("Llama-3.1-9B")


OWN = """
[models."ours-1B"]
aliases = ["house/one"]
source = "our own config.json"
params_b = 1.0
shape = { architecture = "LlamaForCausalLM", layers = 16, hidden = 2048, heads = 32, kv_heads = 8, head_dim = 64,\
 intermediate = 8192, vocabulary = 32000, max_model_len = 4096 }

[gpus.H100]
architecture = "Hopper"
capability = 9.0
memory_gib = 70
memory_gb_s = 3000
bf16_tflops = 800
fp8_tflops = 1600
int8_tops = 1600
fp4_tflops = 0
link_gb_s = 450
nvlink = true
source = "measured here"
"""


@pytest.fixture
def own(tmp_path: Path) -> Catalogue:
    (tmp_path / "own.toml").write_text(OWN)
    return Catalogue.load(tmp_path / "own.toml")


def test_a_users_own_file_adds_rows(own: Catalogue) -> None:
    assert own.model("house/one-FP8").name == "ours-1B"


def test_a_users_own_row_takes_the_place_of_ours(own: Catalogue) -> None:
    assert own.gpu("h100").memory_gib == 70
    assert own.gpu("H100-SXM-80GB").memory_gib == 79.65


def test_what_the_users_file_leaves_out_is_as_shipped(own: Catalogue) -> None:
    assert own.model("Llama-3.1-8B") == model("Llama-3.1-8B")


def test_a_row_of_a_users_file_that_lacks_something_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[models.half]\nsource = "ours"\nparams_b = 1.0\nshape = { layers = 16 }\n')
    with pytest.raises(BadCatalogue, match=r"\[models\.'half'\] shape: .*missing"):
        Catalogue.load(tmp_path / "own.toml").model("half")
