"""Small models of random weights with the tokenizer of the real one: for what depends on shapes, not on sense."""

import json
import shutil
from pathlib import Path

from tests.serving.models.tiny import save_model

REAL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def random_llama(folder: Path, heads: int, kv_heads: int, layers: int = 4, head_dim: int = 32) -> Path:
    """A Llama whose logits lie far apart, so that rounding in another order does not change which is the largest."""
    shape = {
        "vocab_size": 49_152,
        "hidden_size": heads * head_dim,
        "intermediate_size": heads * head_dim * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
    }
    save_model(folder, dtype="float32", seed=heads, **shape)
    for name in TOKENIZER:
        if (REAL / name).is_file():
            shutil.copyfile(REAL / name, folder / name)
    return folder


def random_adapter(folder: Path, base: Path, rank: int = 8, seed: int = 7) -> Path:
    """A LoRA adapter as PEFT writes it, strong enough to change what is said."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    head_dim = config.hidden_size // config.num_attention_heads
    out = {"q_proj": config.num_attention_heads * head_dim, "v_proj": config.num_key_value_heads * head_dim}
    torch.manual_seed(seed)
    weights = {}
    for layer in range(config.num_hidden_layers):
        for name, width in out.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(rank, config.hidden_size) * 0.2
            weights[f"{stem}.lora_B.weight"] = torch.randn(width, rank) * 0.2
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(out), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "task_type": "CAUSAL_LM"}))
    return folder
