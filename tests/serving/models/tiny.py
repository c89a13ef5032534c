"""Tiny random models and their tokenizer, made here: what they say is noise, but every part of a real one is there."""

from pathlib import Path
from typing import Any

from serving.models.sample import Prompt

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def vocabulary() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return [*CONTROL, *sorted(ByteLevel.alphabet()), "ĠĠ"]


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary())}, [("Ġ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[1], eos_token=CONTROL[2], pad_token=CONTROL[2]
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def save_model(folder: Path, kind: str = "llama", dtype: str = "bfloat16", seed: int = 0, **changes: Any) -> Path:
    """`changes` are of the config. Biases and norms are random as well: at zero and one a lost one would not show."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        kind
    ]
    settings = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model: Any = model_class(config_class(**settings | changes))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def prompts(count: int, tokens: int = 12, max_tokens: int = 8, seed: int = 0) -> tuple[Prompt, ...]:
    """Of different lengths, so that a batch has to be padded."""
    import random

    draw = random.Random(seed)
    size = len(vocabulary())
    rows = (tuple(draw.randrange(len(CONTROL), size) for _ in range(tokens + row % 5)) for row in range(count))
    return tuple(Prompt(row, ids, max_tokens) for row, ids in enumerate(rows))


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))
