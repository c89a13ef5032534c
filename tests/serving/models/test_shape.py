"""What a config.json says of a model's size, in the words of each family."""

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.catalogue.catalogue import model
from serving.engine_config import ModelShape
from serving.models.folder import ModelFolder
from serving.models.refusal import BadModelFolder
from serving.models.shape import shape_of

# As published, without what says nothing of a size; values that transformers leaves to its classes are left out here.
CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen1.5-MoE-A2.7B": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 1408,
        "num_attention_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Mixtral-8x7B": {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "DeepSeek-V3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "tie_word_embeddings": False,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "DeepSeek-V2-Lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "tie_word_embeddings": False,
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"],
        "head_dim": 64,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "vocab_size": 201088,
    },
    "MiniMax-M2": {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "max_position_embeddings": 196608,
        "num_attention_heads": 48,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 62,
        "num_key_value_heads": 8,
        "num_local_experts": 256,
        "num_mtp_modules": 3,
        "shared_intermediate_size": 0,
        "tie_word_embeddings": False,
        "vocab_size": 200064,
    },
    "Llama-4-Maverick-17B-128E": {
        "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": {
            "attention_chunk_size": 8192,
            "head_dim": 128,
            "hidden_size": 5120,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "max_position_embeddings": 1048576,
            "no_rope_layers": [],
            "num_attention_heads": 40,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "tie_word_embeddings": False,
            "vocab_size": 202048,
        },
    },
    "Gemma-2-9B": {
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 256,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "Gemma-3-1B": {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 256,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Phi-3-mini-4k": {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-3-mini-128k": {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-2": {
        "architectures": ["PhiForCausalLM"],
        "hidden_act": "gelu_new",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
        "vocab_size": 51200,
    },
    "StarCoder2-3B": {
        "architectures": ["Starcoder2ForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "max_position_embeddings": 16384,
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "sliding_window": 4096,
        "vocab_size": 49152,
    },
    "Falcon-7B": {
        "architectures": ["FalconForCausalLM"],
        "hidden_size": 4544,
        "max_position_embeddings": 2048,
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "num_kv_heads": 71,
        "vocab_size": 65024,
    },
    "Falcon-40B": {
        "architectures": ["FalconForCausalLM"],
        "hidden_size": 8192,
        "max_position_embeddings": 2048,
        "multi_query": True,
        "new_decoder_architecture": True,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
        "vocab_size": 65024,
    },
    "OPT-1.3B": {
        "architectures": ["OPTForCausalLM"],
        "activation_function": "relu",
        "ffn_dim": 8192,
        "hidden_size": 2048,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "vocab_size": 50272,
        "word_embed_proj_dim": 2048,
    },
    "GPT-J-6B": {
        "architectures": ["GPTJForCausalLM"],
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "tie_word_embeddings": False,
        "vocab_size": 50400,
    },
    "Command-R7B": {
        "architectures": ["Cohere2ForCausalLM"],
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 132096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "vocab_size": 256000,
    },
    "GLM-4.5-Air": {
        "architectures": ["Glm4MoeForCausalLM"],
        "first_k_dense_replace": 1,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_attention_heads": 96,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 46,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
        "vocab_size": 151552,
    },
    "Nemotron-4-340B": {
        "architectures": ["NemotronForCausalLM"],
        "head_dim": 192,
        "hidden_act": "relu2",
        "hidden_size": 18432,
        "intermediate_size": 73728,
        "max_position_embeddings": 4096,
        "num_attention_heads": 96,
        "num_hidden_layers": 96,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 256000,
    },
}


def folder_of(path: Path, config: dict[str, Any]) -> ModelFolder:
    (path / "config.json").write_text(json.dumps(config))
    text = config.get("text_config", config)
    heads = text.get("num_attention_heads") or text["n_head"]
    return ModelFolder(
        path=path,
        name="model",
        architecture=config["architectures"][0],
        precision="bf16",
        size_bytes=0,
        max_model_len=text.get("max_position_embeddings") or text["n_positions"],
        vocab_size=text["vocab_size"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads", heads),
        chat_template=None,
        special_tokens={},
    )


def shape(path: Path, name: str, **changes: Any) -> ModelShape:
    return shape_of(folder_of(path, CONFIGS[name] | changes))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_has_the_shape_that_the_catalogue_knows(name: str, tmp_path: Path) -> None:
    assert shape(tmp_path, name) == model(name).shape


def test_the_head_of_a_family_that_ties_is_its_own_where_the_config_says_so(tmp_path: Path) -> None:
    assert not shape(tmp_path, "StarCoder2-3B", tie_word_embeddings=False).tied


def test_qwens_window_begins_after_its_whole_layers(tmp_path: Path) -> None:
    found = shape(tmp_path, "Qwen2.5-7B", use_sliding_window=True, sliding_window=4096, max_window_layers=20)
    assert (found.window, found.windowed_layers) == (4096, 28 - 20)


def test_a_family_that_windows_by_a_rule_does_so_without_being_told(tmp_path: Path) -> None:
    assert shape(tmp_path, "gpt-oss-20b", layer_types=None).windowed_layers == 12
    assert shape(tmp_path, "Gemma-3-1B", sliding_window_pattern=None).windowed_layers == 22


def test_a_pattern_in_letters_is_read(tmp_path: Path) -> None:
    found = shape(tmp_path, "Llama-3.1-8B", sliding_window=4096, sliding_window_pattern="LLLG")
    assert found.windowed_layers == 24


def test_dense_layers_are_those_that_the_config_lists_or_skips(tmp_path: Path) -> None:
    assert shape(tmp_path, "Qwen3-30B-A3B", mlp_only_layers=[0, 3]).dense_layers == 2
    assert shape(tmp_path, "Qwen3-30B-A3B", decoder_sparse_step=2).dense_layers == 24
    assert shape(tmp_path, "Qwen3-30B-A3B", mlp_layer_types=["dense"] * 5 + ["sparse"] * 43).dense_layers == 5


def test_kv_heads_that_differ_by_layer_count_as_the_most(tmp_path: Path) -> None:
    per_layer = [4] * 20 + [1, 2] * 6
    assert shape(tmp_path, "Llama-3.1-8B", num_key_value_heads_per_layer=per_layer).kv_heads == 4


def test_a_config_without_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match="num_hidden_layers is missing"):
        shape(tmp_path, "Llama-3.1-8B", num_hidden_layers=None)
