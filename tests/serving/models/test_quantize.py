"""INT8 W8A8 of a tiny random Llama: how near the weights stay, and what vLLM finds in the folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.models.folder import BadModelFolder, FolderExists, ModelFolder
from serving.models.quantize import quantize_w8a8

pytest.importorskip("compressed_tensors")


def save_llama(folder: Path, dtype: str = "bfloat16") -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"some": "tokenizer"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("models")
    source, target = save_llama(base / "tiny"), base / "tiny-w8a8"
    quantize_w8a8(source, target)
    return source, target


def test_no_weight_moves_by_more_than_half_a_step_of_its_channel(pair: tuple[Path, Path]) -> None:
    before, after = map(tensors, pair)
    scales = {name: scale for name, scale in after.items() if name.endswith("_scale")}
    assert len(scales) == 2 * 7
    for name, scale in scales.items():
        weight = name.removesuffix("_scale")
        moved = (before[weight].float() - after[weight].float() * scale).abs()
        assert (moved <= 0.5001 * scale).all(), weight


def test_weights_are_int8_with_one_float32_scale_per_output_channel(pair: tuple[Path, Path]) -> None:
    after = tensors(pair[1])
    weight, scale = after["model.layers.0.mlp.gate_proj.weight"], after["model.layers.0.mlp.gate_proj.weight_scale"]
    assert (str(weight.dtype), str(scale.dtype)) == ("torch.int8", "torch.float32")
    assert (tuple(weight.shape), tuple(scale.shape)) == ((128, 64), (128, 1))


def test_embeddings_and_norms_keep_every_bit_and_the_tied_head_is_not_stored_twice(pair: tuple[Path, Path]) -> None:
    before, after = map(tensors, pair)
    kept = {name for name in after if "embed" in name or "norm" in name}
    assert len(kept) == 1 + 2 * 2 + 1
    assert all(after[name].equal(before[name]) and after[name].dtype == before[name].dtype for name in kept)
    assert "lm_head.weight" not in after


def test_the_config_has_what_vllm_reads(pair: tuple[Path, Path]) -> None:
    config = json.loads((pair[1] / "config.json").read_text())
    found = config["quantization_config"]
    group = found["config_groups"]["group_0"]
    weights, activations = group["weights"], group["input_activations"]
    assert (found["quant_method"], found["format"], found["ignore"]) == (
        "compressed-tensors",
        "int-quantized",
        ["lm_head"],
    )
    assert group["targets"] == ["Linear"]
    assert (weights["num_bits"], weights["strategy"], weights["symmetric"], weights["dynamic"]) == (
        8,
        "channel",
        True,
        False,
    )
    assert (activations["num_bits"], activations["strategy"], activations["dynamic"]) == (8, "token", True)
    assert config["dtype"] == "bfloat16"


def test_the_copy_opens_as_w8a8_with_the_sources_tokenizer_and_names_its_source(pair: tuple[Path, Path]) -> None:
    source, target = map(ModelFolder.open, pair)
    assert (source.precision, target.precision) == ("bf16", "w8a8")
    assert target.tokenizer_json.read_bytes() == source.tokenizer_json.read_bytes()
    assert target.chat_template == source.chat_template
    assert target.origin is not None
    assert source.fingerprint in target.origin.source


def test_quantising_twice_gives_the_same_fingerprint(pair: tuple[Path, Path], tmp_path: Path) -> None:
    quantize_w8a8(pair[0], tmp_path / "again")
    assert ModelFolder.open(tmp_path / "again").fingerprint == ModelFolder.open(pair[1]).fingerprint


def test_nothing_is_written_to_the_terminal(
    pair: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize_w8a8(pair[0], tmp_path / "again")
    assert capfd.readouterr() == ("", "")


def test_a_quantised_model_is_not_quantised_again(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match="w8a8 already; give the unquantised model"):
        quantize_w8a8(pair[1], tmp_path / "again")


def test_a_model_that_generates_no_text_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source = save_llama(tmp_path / "embedder")
    config = json.loads((source / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModelFolder, match="BertModel, no text generator"):
        quantize_w8a8(source, tmp_path / "target")


def test_an_existing_target_is_left_alone(pair: tuple[Path, Path]) -> None:
    before = ModelFolder.open(pair[1]).fingerprint
    with pytest.raises(FolderExists, match="already exists"):
        quantize_w8a8(*pair)
    assert ModelFolder.open(pair[1]).fingerprint == before
