"""A tiny GGUF file written here comes out as the safetensors folder it describes."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.models.folder import ModelFolder
from serving.models.gguf_import import import_gguf

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WIDTH, HEADS, KV_HEADS, FFN = 64, 4, 2, 96
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['role'] }}{% endfor %}"


def vocabulary() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return [*CONTROL, *sorted(ByteLevel.alphabet()), "ĠĠ"]


def weights(vocab: int) -> dict[str, Any]:
    shapes = {
        "token_embd": (vocab, WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH // HEADS * KV_HEADS, WIDTH),
        "blk.0.attn_v": (WIDTH // HEADS * KV_HEADS, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (FFN, WIDTH),
        "blk.0.ffn_up": (FFN, WIDTH),
        "blk.0.ffn_down": (WIDTH, FFN),
    }
    random = np.random.default_rng(0)
    return {f"{name}.weight": random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_metadata(writer: Any, tokens: list[str]) -> None:
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def gguf_file(file: Path) -> Path:
    tokens = vocabulary()
    writer = gguf.GGUFWriter(file, "llama")
    write_metadata(writer, tokens)
    for name, values in weights(len(tokens)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("gguf")
    import_gguf(gguf_file(base / "tiny.gguf"), base / "tiny")
    return base / "tiny"


def test_the_folder_is_a_sound_bf16_model(made: Path) -> None:
    model = ModelFolder.open(made)
    assert (model.architecture, model.precision, model.max_model_len) == ("LlamaForCausalLM", "bf16", 128)
    assert (model.heads, model.kv_heads) == (HEADS, KV_HEADS)
    assert model.chat_template == TEMPLATE
    assert (model.special_tokens["bos_token"], model.special_tokens["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == 2


def test_only_the_models_files_are_left(made: Path) -> None:
    assert sorted(file.name for file in made.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_tensors_are_the_files_own_and_the_tied_head_is_not_stored_twice(made: Path) -> None:
    import torch
    from safetensors.torch import load_file

    found, given = load_file(made / "model.safetensors"), weights(len(vocabulary()))
    embedded = torch.from_numpy(given["token_embd.weight"]).bfloat16()
    assert found["model.embed_tokens.weight"].equal(embedded)
    assert found["model.layers.0.mlp.down_proj.weight"].equal(
        torch.from_numpy(given["blk.0.ffn_down.weight"]).bfloat16()
    )
    assert "lm_head.weight" not in found


def test_control_tokens_are_single_ids_in_plain_text(made: Path) -> None:
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(made / "tokenizer.json")).encode("<|im_start|>u<|im_end|>")
    assert (encoded.ids[0], encoded.ids[-1], len(encoded.ids)) == (1, 2, 3)


def test_digits_are_cut_off_before_spaces_are_grouped(made: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    expected = ["a", "ĠĠ", "1", "2"]
    assert Tokenizer.from_file(str(made / "tokenizer.json")).encode("a  12").tokens == expected
    assert AutoTokenizer.from_pretrained(made).tokenize("a  12") == expected


def test_float32_keeps_every_bit(made: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    import_gguf(made.parent / "tiny.gguf", tmp_path / "exact", "float32")
    found = load_file(tmp_path / "exact" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert (found == weights(len(vocabulary()))["blk.0.ffn_up.weight"]).all()
