"""Models by shape alone: a config as its authors published it, a tokenizer of as many words, and no weights."""

import json
import random
from pathlib import Path
from typing import Any

# The config.json of each, as far as it tells the size (meta-llama/Llama-3.1-8B, HuggingFaceTB/SmolLM2-135M,
# Qwen/Qwen3-30B-A3B). The last is nobody's: so small that two cores take little longer for a step of many sequences
# than for one of few, as a GPU does with a model of ordinary size.
CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
        "intermediate_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    "tiny": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 32, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
FIRST_WORD = 3  # the ones before it begin, end and pad


def save_shape(folder: Path, model: str) -> Path:
    config = {
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": None,
        **CONFIGS[model],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    _save_tokenizer(folder, config["vocab_size"])
    return folder


def _save_tokenizer(folder: Path, words: int) -> None:
    """One word for each token, so that whatever is said has a text of ordinary length."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{word}": word for word in range(FIRST_WORD, words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def random_prompts(model: str, tokens: int, prompts: int, seed: int) -> list[tuple[int, ...]]:
    draw, words = random.Random(seed), CONFIGS[model]["vocab_size"]
    return [tuple(draw.choices(range(FIRST_WORD, words), k=tokens)) for _ in range(prompts)]
