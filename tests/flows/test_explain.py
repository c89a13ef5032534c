"""The arithmetic of a model on a GPU, as text and as a picture."""

import json
import struct
from pathlib import Path

import pytest

from flows.explain import check_picture, explained, subject_of, text_of
from optimizer.catalogue.names import UnknownName
from serving.engines.machine import CannotRun

SVG, PNG = b"<?xml", b"\x89PNG"
SUBJECTS = [
    ("Llama-3.1-8B", "H100", "bf16", "auto", None),
    ("Llama-3.1-70B", "H100 x8", "fp8", "fp8", 4),
    ("Llama-3.1-70B", "L4", "bf16", "auto", None),
    ("DeepSeek-V3", "H200 x8", "fp8", "auto", None),
    ("gpt-oss-120b", "B200", None, "auto", None),
    ("gemma-2-9b", "T4", "bf16", "auto", None),
]


def told(model: str, hardware: str, weights: str | None = None, kv: str = "auto", tensor: int | None = None) -> str:
    subject = subject_of(model, hardware, weights, kv, tensor)
    return text_of(subject, explained(subject, 1024, 256))


@pytest.mark.parametrize(("model", "hardware", "weights", "kv", "tensor"), SUBJECTS)
def test_every_step_of_the_arithmetic_is_there(
    model: str, hardware: str, weights: str | None, kv: str, tensor: int | None
) -> None:
    text = told(model, hardware, weights, kv, tensor)
    for word in (
        "parameters",
        "weights",
        "KV a token",
        "KV cache",
        "critical",
        "ridge",
        "prefill",
        "decode, 1 sequence",
    ):
        assert word in text
    assert max(len(line) for line in text.splitlines()) < 160


def test_the_figures_are_those_of_the_formulae() -> None:
    text = told("Llama-3.1-8B", "H100", "bf16")
    assert "8.03 B in 32 layers" in text
    assert "2 x 32 layers x 8 KV heads x 128 x 2 bytes = 131,072 bytes" in text
    assert "= 295 tokens a step" in text


def test_a_model_that_does_not_fit_says_so_and_what_to_do() -> None:
    assert "it does not fit" in told("Llama-3.1-70B", "L4", "bf16")


def test_what_vllm_would_refuse_is_told() -> None:
    assert "vLLM would refuse it: attention heads" in told("Llama-3.1-8B", "H100 x3", "bf16", tensor=3)
    assert "vLLM would refuse it" in told("Llama-3.1-8B", "A100", "bf16", "fp8")


def test_gpus_beyond_the_ranks_run_engines_side_by_side() -> None:
    assert "4 engines side by side" in told("Llama-3.1-8B", "H100 x8", "bf16", tensor=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama: a config and weights in one safetensors file."""
    found = tmp_path / "tiny-llama"
    found.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
        "max_position_embeddings": 512, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (found / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (found / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    return found


def test_a_local_folder_is_explained_by_its_config(folder: Path) -> None:
    text = told(str(folder), "L4")
    assert "tiny-llama on L4" in text
    assert "2 x 2 layers x 2 KV heads x 16 x 2 bytes = 256 bytes" in text


@pytest.mark.parametrize(
    ("arguments", "word", "fault"),
    [
        (("Llama-99", "H100", None, "auto", None), "Llama-99", UnknownName),
        (("Llama-3.1-8B", "abacus", None, "auto", None), "abacus", UnknownName),
        (("Llama-3.1-8B", "H100", "stone", "auto", None), "stone", CannotRun),
        (("Llama-3.1-8B", "H100", None, "int3", None), "int3", CannotRun),
        (("Llama-3.1-8B", "H100", None, "auto", 4), "x4", CannotRun),
    ],
)
def test_what_is_unknown_is_told_by_its_name(
    arguments: tuple[str, str, str | None, str, int | None], word: str, fault: type[Exception]
) -> None:
    with pytest.raises(fault, match=word):
        subject_of(*arguments)


def test_a_picture_is_a_png_or_an_svg_in_a_folder_that_is_there(tmp_path: Path) -> None:
    check_picture(tmp_path / "roof.PNG")
    with pytest.raises(CannotRun, match=r"\.png or \.svg"):
        check_picture(tmp_path / "roof.gif")
    with pytest.raises(CannotRun, match="no folder"):
        check_picture(tmp_path / "none" / "roof.png")


@pytest.mark.parametrize(("model", "hardware", "weights", "kv", "tensor"), SUBJECTS)
def test_no_two_labels_of_the_picture_overlap(
    tmp_path: Path, model: str, hardware: str, weights: str | None, kv: str, tensor: int | None
) -> None:
    pytest.importorskip("matplotlib")
    from flows.pictures.roofline import draw

    subject = subject_of(model, hardware, weights, kv, tensor)
    boxes = draw(explained(subject, 1024, 256), subject.title, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(PNG)
    for place, (x0, y0, x1, y1) in enumerate(boxes):
        for left, low, right, high in boxes[:place]:
            assert min(x1, right) <= max(x0, left) or min(y1, high) <= max(y0, low)


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from flows.pictures.roofline import draw

    subject = subject_of("Llama-3.1-8B", "H100", None, "auto", None)
    for name in ("one.svg", "other.svg"):
        draw(explained(subject, 1024, 256), subject.title, tmp_path / name)
    one, other = ((tmp_path / name).read_bytes() for name in ("one.svg", "other.svg"))
    assert one.startswith(SVG)
    assert one == other
