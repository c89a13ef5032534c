"""INT8 and FP8 of a tiny random Llama without calibration: how near the weights stay, and what vLLM finds there."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.models.folder import BadModelFolder, FolderExists, ModelFolder
from serving.models.quantize.schemes import SCHEMES
from serving.models.quantize.write import fit, quantize
from tests.serving.models.tiny import save_model, tensors

pytest.importorskip("compressed_tensors")

WITHOUT_ROWS = ("w8a8", "w8a16", "fp8")


def copy(source: Path, target: Path, scheme: str = "w8a8") -> Path:
    quantize(fit(ModelFolder.open(source), SCHEMES[scheme], calibrated=False, wanted_group=None), target)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def copies(source: Path) -> dict[str, Path]:
    return {scheme: copy(source, source.with_name(f"tiny-{scheme}"), scheme) for scheme in WITHOUT_ROWS}


def group(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    found: dict[str, Any] = config["quantization_config"]["config_groups"]["group_0"]
    return found


def read_back(folder: Path) -> dict[str, Any]:
    from serving.models.fidelity import load

    return dict(load(folder).state_dict())


def test_no_int8_weight_moves_by_more_than_half_a_step_of_its_channel(source: Path, copies: dict[str, Path]) -> None:
    before, after = tensors(source), tensors(copies["w8a8"])
    scales = {name: scale for name, scale in after.items() if name.endswith("_scale")}
    assert len(scales) == 2 * 7
    for name, scale in scales.items():
        weight = name.removesuffix("_scale")
        moved = (before[weight].float() - after[weight].float() * scale).abs()
        assert (moved <= 0.5001 * scale).all(), weight


@pytest.mark.parametrize(("scheme", "share"), [("w8a8", 0.5 / 127.5), ("w8a16", 0.5 / 127.5), ("fp8", 1 / 16)])
def test_a_weight_read_back_is_near_what_it_was(
    source: Path, copies: dict[str, Path], scheme: str, share: float
) -> None:
    """INT8: half a step of the channel's largest. FP8 has three bits of fraction: a sixteenth of the weight itself."""
    before, after = tensors(source), read_back(copies[scheme])
    for name in (name for name in before if "proj" in name):
        weight = before[name].float()
        largest = weight.abs().amax(dim=1, keepdim=True)
        allowed = share * weight.abs() + largest / 448 / 2**9 if scheme == "fp8" else share * largest
        assert ((weight - after[name]).abs() <= 1.001 * allowed).all(), name
        assert not after[name].equal(weight)


def test_weights_are_int8_with_one_float32_scale_per_output_channel(copies: dict[str, Path]) -> None:
    after = tensors(copies["w8a8"])
    weight, scale = after["model.layers.0.mlp.gate_proj.weight"], after["model.layers.0.mlp.gate_proj.weight_scale"]
    assert (str(weight.dtype), str(scale.dtype)) == ("torch.int8", "torch.float32")
    assert (tuple(weight.shape), tuple(scale.shape)) == ((128, 64), (128, 1))


@pytest.mark.parametrize("scheme", WITHOUT_ROWS)
def test_embeddings_and_norms_keep_every_bit_and_the_tied_head_is_not_stored_twice(
    source: Path, copies: dict[str, Path], scheme: str
) -> None:
    before, after = tensors(source), tensors(copies[scheme])
    kept = {name for name in after if "embed" in name or "norm" in name}
    assert len(kept) == 1 + 2 * 2 + 1
    assert all(after[name].equal(before[name]) and after[name].dtype == before[name].dtype for name in kept)
    assert "lm_head.weight" not in after


@pytest.mark.parametrize(
    ("scheme", "format", "weights", "activations"),
    [
        ("w8a8", "int-quantized", (8, "int", "channel"), (8, "int", "token")),
        ("w8a16", "pack-quantized", (8, "int", "channel"), None),
        ("fp8", "float-quantized", (8, "float", "channel"), (8, "float", "token")),
    ],
)
def test_the_config_has_what_vllm_reads(
    copies: dict[str, Path], scheme: str, format: str, weights: tuple[Any, ...], activations: tuple[Any, ...] | None
) -> None:
    config = json.loads((copies[scheme] / "config.json").read_text())
    quantization, found = config["quantization_config"], group(copies[scheme])
    kinds = ("num_bits", "type", "strategy")
    assert (quantization["quant_method"], quantization["format"]) == ("compressed-tensors", format)
    assert (quantization["ignore"], found["targets"], config["dtype"]) == (["lm_head"], ["Linear"], "bfloat16")
    assert tuple(found["weights"][kind] for kind in kinds) == weights
    assert (found["weights"]["symmetric"], found["weights"]["dynamic"]) == (True, False)
    taken = found["input_activations"]
    assert (tuple(taken[kind] for kind in kinds) if taken else None) == activations
    assert taken is None or taken["dynamic"] is True


@pytest.mark.parametrize("scheme", WITHOUT_ROWS)
def test_the_copy_opens_under_its_precision_with_the_sources_tokenizer_and_names_its_source(
    source: Path, copies: dict[str, Path], scheme: str
) -> None:
    before, after = ModelFolder.open(source), ModelFolder.open(copies[scheme])
    assert (before.precision, after.precision) == ("bf16", scheme)
    assert after.tokenizer_json.read_bytes() == before.tokenizer_json.read_bytes()
    assert after.chat_template == before.chat_template
    assert after.origin is not None
    assert before.fingerprint in after.origin.source
    assert after.origin.method.startswith(f"{scheme}: ")


def test_quantizing_twice_gives_the_same_fingerprint(source: Path, copies: dict[str, Path], tmp_path: Path) -> None:
    again = copy(source, tmp_path / "again")
    assert ModelFolder.open(again).fingerprint == ModelFolder.open(copies["w8a8"]).fingerprint


def test_nothing_is_written_to_the_terminal(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy(source, tmp_path / "again")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scheme", WITHOUT_ROWS)
def test_a_quantized_model_is_not_quantized_again(copies: dict[str, Path], tmp_path: Path, scheme: str) -> None:
    with pytest.raises(BadModelFolder, match=f"{scheme} already; give the unquantized model"):
        copy(copies[scheme], tmp_path / "again")


def test_a_model_that_generates_no_text_is_refused(tmp_path: Path) -> None:
    source = save_model(tmp_path / "embedder")
    config = json.loads((source / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModelFolder, match="BertModel, no text generator"):
        copy(source, tmp_path / "target")


def test_an_existing_target_is_left_alone(source: Path, copies: dict[str, Path]) -> None:
    before = ModelFolder.open(copies["w8a8"]).fingerprint
    with pytest.raises(FolderExists, match="already exists"):
        copy(source, copies["w8a8"])
    assert ModelFolder.open(copies["w8a8"]).fingerprint == before
