"""GPTQ, AWQ and SmoothQuant by llmcompressor in its own environment: models that the parts of vLLM read come back."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.models.fidelity import compare, load
from serving.models.folder import ModelFolder
from serving.models.quantize.apart import PYTHON, QuantizationFailed
from serving.models.quantize.schemes import SCHEMES, BadScheme
from serving.models.quantize.write import CalibrationRows, fit, quantize
from serving.models.record import Calibration, read_record
from tests.serving.models.tiny import prompts, save_model, tensors

pytest.importorskip("compressed_tensors")

INTERPRETER = Path(__file__).parents[3] / PYTHON
HERE = pytest.mark.skipif(not INTERPRETER.is_file(), reason=f"{PYTHON} is not there; `make quantize-env` makes it")
CALIBRATED = {"w8a8": None, "w4a16-gptq": 32, "w4a16-awq": 32}
ROWS = prompts(48, tokens=24, seed=1)
RECORD = Calibration("rows.jsonl", "ab" * 32, 1, sum(len(row.token_ids) for row in ROWS), tuple(range(len(ROWS))))


def copy(source: Path, target: Path, scheme: str, group: int | None, python: Path = INTERPRETER) -> Path:
    recipe = fit(ModelFolder.open(source), SCHEMES[scheme], True, group, python)
    quantize(recipe, target, CalibrationRows(tuple(row.token_ids for row in ROWS), RECORD), target.with_suffix(".log"))
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def copies(source: Path) -> dict[str, Path]:
    return {
        scheme: copy(source, source.with_name(f"tiny-{scheme}"), scheme, group) for scheme, group in CALIBRATED.items()
    }


def test_without_its_environment_a_calibrated_scheme_is_refused_with_the_way_to_make_it(tmp_path: Path) -> None:
    source = save_model(tmp_path / "tiny")
    with pytest.raises(BadScheme, match="make quantize-env"):
        copy(source, tmp_path / "target", "w4a16-gptq", None, tmp_path / "python")


def test_a_child_that_fails_leaves_no_model_and_its_last_words(tmp_path: Path) -> None:
    source, python = save_model(tmp_path / "tiny"), tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no such thing' >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(QuantizationFailed, match="ended with 3: ImportError: no such thing"):
        copy(source, tmp_path / "target", "w4a16-gptq", None, python)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["python", "target.log", "tiny"]


def test_the_child_is_shown_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    source, python = save_model(tmp_path / "tiny"), tmp_path / "python"
    python.write_text("#!/bin/sh\nenv\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(QuantizationFailed):
        copy(source, tmp_path / "target", "w4a16-gptq", None, python)
    said = (tmp_path / "target.log").read_text()
    assert "HF_HUB_OFFLINE=1" in said
    assert "secret" not in said


@HERE
@pytest.mark.quantize
@pytest.mark.parametrize("scheme", CALIBRATED)
def test_the_copy_stays_near_the_full_model_on_rows_it_was_not_shown(
    source: Path, copies: dict[str, Path], scheme: str
) -> None:
    found = compare(source, copies[scheme], prompts(12, seed=2), lambda message: None)
    most = 0.01 if scheme == "w8a8" else 0.25
    assert 0 < found.mean_kl_nats < most


@HERE
@pytest.mark.quantize
@pytest.mark.parametrize("scheme", CALIBRATED)
def test_the_copy_is_of_its_precision_and_names_the_rows(copies: dict[str, Path], scheme: str) -> None:
    found = ModelFolder.open(copies[scheme])
    assert found.precision == scheme.partition("-")[0]
    assert found.origin is not None
    assert SCHEMES[scheme].calibrated_by in found.origin.method
    assert read_record(copies[scheme])["calibration"]["rows"] == list(RECORD.rows)


@HERE
@pytest.mark.quantize
@pytest.mark.parametrize(("scheme", "symmetric"), [("w4a16-gptq", True), ("w4a16-awq", False)])
def test_four_bit_weights_are_packed_eight_to_a_word_with_a_scale_for_each_group(
    copies: dict[str, Path], scheme: str, symmetric: bool
) -> None:
    found = tensors(copies[scheme])
    stem = "model.layers.0.mlp.gate_proj.weight"
    assert tuple(found[f"{stem}_packed"].shape) == (128, 64 // 8)
    assert tuple(found[f"{stem}_scale"].shape) == (128, 64 // 32)
    assert (f"{stem}_zero_point" in found) is not symmetric


@HERE
@pytest.mark.quantize
@pytest.mark.parametrize("scheme", CALIBRATED)
def test_vllms_release_of_compressed_tensors_takes_the_config(copies: dict[str, Path], scheme: str) -> None:
    """It forbids keys that it does not know, and llmcompressor writes with a later release."""
    from compressed_tensors.quantization import QuantizationConfig

    config = json.loads((copies[scheme] / "config.json").read_text())["quantization_config"]
    found = QuantizationConfig.model_validate(config)
    assert found.ignore == ["lm_head"]
    assert found.format == SCHEMES[scheme].format


@HERE
@pytest.mark.quantize
def test_gptq_loses_less_of_a_layers_output_than_rounding_to_the_same_grid(
    source: Path, copies: dict[str, Path]
) -> None:
    """What it is for. The first layer's input is the same in both, so its error is of its own weights."""
    full, quantized = load(source), load(copies["w4a16-gptq"])
    x = layer_input(full)
    weight = full.model.layers[0].self_attn.q_proj.weight.detach()
    gptq = quantized.model.layers[0].self_attn.q_proj.weight.detach()
    scale = (
        tensors(copies["w4a16-gptq"])["model.layers.0.self_attn.q_proj.weight_scale"].float().repeat_interleave(32, 1)
    )
    nearest = (weight / scale).round().clamp(-8, 7) * scale

    lost = {name: float(((other - weight) @ x.T).square().sum()) for name, other in (("gptq", gptq), ("rtn", nearest))}

    assert 0 < lost["gptq"] < 0.95 * lost["rtn"]


def layer_input(model: Any) -> Any:
    """(tokens, inputs) of the first layer's q_proj on the calibration rows."""
    import torch

    layer = model.model.layers[0]
    embedded = [layer.input_layernorm(model.model.embed_tokens(torch.tensor(row.token_ids))) for row in ROWS]
    return torch.cat(embedded).detach()


@HERE
@pytest.mark.quantize
@pytest.mark.real
def test_vllm_answers_with_the_calibrated_int8_copy(tmp_path: Path) -> None:
    """Heads of 64, as its attention kernels take."""
    pytest.importorskip("vllm")
    from serving.engines.machine import this_machine
    from serving.models.speed import measure_speed

    source = save_model(tmp_path / "tiny", hidden_size=256, intermediate_size=256)
    target = copy(source, tmp_path / "tiny-w8a8", "w8a8", None)

    pace = measure_speed(source, target, prompts(4), this_machine(), tmp_path)

    assert pace.output_tokens_per_s > 0
    assert pace.full_output_tokens_per_s > 0
