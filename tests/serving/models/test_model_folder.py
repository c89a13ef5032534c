"""What ModelFolder refuses, what it reads, and when its fingerprint changes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serving.models import folder as folder_module
from serving.models.folder import BadModelFolder, FolderExists, ModelFolder, Origin, is_complete, new_model_folder

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 64,
    "vocab_size": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ORIGIN = Origin("a test", "by hand", "CC0-1.0")
HEADER_TOO_DEEP = (100_000).to_bytes(8, "little") + b"[" * 100_000
Spoil = Callable[[Path], object]


def safetensors_bytes(dtype: str = "BF16", payload: bytes = b"\0\1\2\3") -> bytes:
    header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(payload)]}}).encode()
    return len(header).to_bytes(8, "little") + header + payload


def fill(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}, "unk_token": null}')
    (folder / "README.md").write_text("a model")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return fill(tmp_path / "tiny")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with new_model_folder(tmp_path / "made", ORIGIN) as new:
        fill(new)
    return tmp_path / "made"


def change_config(folder: Path, **entries: object) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | entries))


def test_a_sound_folder_is_read(model: Path) -> None:
    read = ModelFolder.open(model)
    assert (read.name, read.architecture, read.precision) == ("tiny", "LlamaForCausalLM", "bf16")
    assert (read.max_model_len, read.vocab_size, read.heads, read.kv_heads) == (64, 10, 4, 2)
    assert read.special_tokens == {"eos_token": "</s>"}
    assert read.tokenizer_json == model / "tokenizer.json"
    assert read.chat_template is None
    assert read.origin is None


def test_size_leaves_out_what_cannot_change_an_answer(model: Path) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert ModelFolder.open(model).size_bytes == sum((model / name).stat().st_size for name in names)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.rename(f.with_name("gone")), ("tiny", "not there", "gristmill models prepare")),
        (lambda f: (f / "config.json").unlink(), ("no config.json", "save_pretrained")),
        (lambda f: (f / "config.json").write_text("{"), ("config.json", "not valid JSON")),
        (lambda f: (f / "config.json").write_text("[]"), ("config.json", "JSON list")),
        (lambda f: change_config(f, vocab_size="many"), ("vocab_size", "'many'")),
        (lambda f: change_config(f, auto_map={"AutoModel": "x.Y"}), ("config.json", "auto_map", "x.Y", "built-in")),
        (lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": 1}'), ("tokenizer_config.json", "auto_map")),
        (lambda f: change_config(f, vocab_size=True), ("vocab_size", "'True'")),
        (lambda f: change_config(f, vocab_size=2**31), ("vocab_size", "'2147483648'")),
        (lambda f: change_config(f, num_key_value_heads=[2]), ("num_key_value_heads", "'[2]'")),
        (lambda f: change_config(f, architectures={"a": "b"}), ("not of the form", "KeyError")),
        (lambda f: change_config(f, quantization_config={"config_groups": {"g": 7}}), ("not of the form",)),
        (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), ("not of the form", "UnicodeDecodeError")),
        (lambda f: (f / "gristmill.json").write_text('{"origin": {"by": "x"}}'), ("not of the form", "TypeError")),
        (lambda f: (f / "model.safetensors").write_bytes(HEADER_TOO_DEEP), ("header is damaged",)),
        (lambda f: (f / "model.safetensors").unlink(), ("no *.safetensors", "convert")),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK"), ("2 bytes", "not a safetensors file")),
        (lambda f: (f / "model.safetensors").write_bytes(safetensors_bytes()[:-1]), ("header promises", "again")),
        (lambda f: (f / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"[]"), ("header is damaged", "again")),
    ],
)
def test_a_bad_folder_is_refused_with_its_fault_and_a_way_out(model: Path, spoil: Spoil, words: tuple[str]) -> None:
    spoil(model)
    with pytest.raises(BadModelFolder) as caught:
        ModelFolder.open(model)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.pth", "w.pkl", "modeling.py", "UPPER.PKL", "deep/er/w.bin"])
def test_a_file_that_can_run_code_is_refused_by_name(model: Path, name: str) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).touch()
    with pytest.raises(BadModelFolder, match=name):
        ModelFolder.open(model)


def test_a_missing_tokenizer_json_is_named_when_it_is_asked_for(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    opened = ModelFolder.open(model)
    with pytest.raises(BadModelFolder, match=r"no tokenizer\.json"):
        _ = opened.tokenizer_json


@pytest.mark.parametrize(("dtype", "label"), [("BF16", "bf16"), ("F16", "fp16"), ("F32", "fp32"), ("U4", "u4")])
def test_precision_is_that_of_the_stored_weights(model: Path, dtype: str, label: str) -> None:
    (model / "model.safetensors").write_bytes(safetensors_bytes(dtype))
    assert ModelFolder.open(model).precision == label


@pytest.mark.parametrize(
    ("weights", "activations", "label"),
    [
        ({"num_bits": 8, "type": "int"}, {"num_bits": 8, "type": "int"}, "w8a8"),
        ({"num_bits": 4, "type": "int"}, None, "w4a16"),
        ({"num_bits": 8, "type": "float"}, {"num_bits": 8, "type": "float"}, "fp8"),
    ],
)
def test_precision_of_a_quantised_model_is_its_scheme(
    model: Path, weights: dict[str, Any], activations: dict[str, Any] | None, label: str
) -> None:
    group = {"weights": weights, "input_activations": activations}
    change_config(
        model, quantization_config={"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    )
    assert ModelFolder.open(model).precision == label


def test_the_template_file_goes_before_the_one_in_the_tokenizer_config(model: Path) -> None:
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert ModelFolder.open(model).chat_template == "D"
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert ModelFolder.open(model).chat_template == "{{ messages }}"


def test_a_byte_in_any_file_that_counts_changes_the_fingerprint(recorded: Path) -> None:
    seen = {ModelFolder.open(recorded).fingerprint}
    for file in sorted(recorded.glob("*.[js]*")):
        if file.name != "gristmill.json":
            content = file.read_bytes()
            file.write_bytes(content[:-1] + (b"\4" if file.suffix == ".safetensors" else content[-1:] + b"\n"))
            seen.add(ModelFolder.open(recorded).fingerprint)
    assert len(seen) == 5


def test_a_new_file_that_counts_changes_the_fingerprint(recorded: Path) -> None:
    before = ModelFolder.open(recorded).fingerprint
    (recorded / "chat_template.jinja").write_text("")
    assert ModelFolder.open(recorded).fingerprint != before


def test_the_record_and_the_readme_are_no_part_of_the_fingerprint(recorded: Path) -> None:
    before = ModelFolder.open(recorded).fingerprint
    (recorded / "gristmill.json").touch()
    (recorded / "README.md").write_text("changed")
    assert ModelFolder.open(recorded).fingerprint == before
    (recorded / "gristmill.json").unlink()
    assert ModelFolder.open(recorded).fingerprint == before


def test_the_fingerprint_does_not_depend_on_where_or_when_the_folder_was_written(model: Path, recorded: Path) -> None:
    os.utime(model / "config.json", (1, 1))
    assert ModelFolder.open(model).fingerprint == ModelFolder.open(recorded).fingerprint


def test_the_fingerprint_is_the_documented_hash(model: Path) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    lines = "".join(f"{name}\0{sha256((model / name).read_bytes()).hexdigest()}\n" for name in names)
    assert ModelFolder.open(model).fingerprint == sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_made_folder_can_be_read_by_a_server_under_another_user(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with new_model_folder(tmp_path / "models" / "made", ORIGIN) as new:
            fill(new)
            (new / "1_Pooling").mkdir()
    finally:
        os.umask(before)
    made = tmp_path / "models" / "made"
    assert {oct(folder.stat().st_mode & 0o777) for folder in (made.parent, made, made / "1_Pooling")} == {"0o755"}
    assert oct((made / "model.safetensors").stat().st_mode & 0o777) == "0o644"


def test_a_made_folder_tells_where_it_came_from(recorded: Path) -> None:
    assert ModelFolder.open(recorded).origin == ORIGIN


def test_a_made_folder_is_complete_until_a_file_is_lost_or_cut(recorded: Path, model: Path) -> None:
    assert is_complete(recorded)
    assert not is_complete(model)
    (recorded / "tokenizer.json").write_text("")
    assert not is_complete(recorded)
    (recorded / "tokenizer.json").unlink()
    assert not is_complete(recorded)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_model_folder(tmp_path / "made", ORIGIN) as new:
        (fill(new) / "not-there").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_build_do_not_reach_the_folder(tmp_path: Path) -> None:
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "half.safetensors").touch()
    with new_model_folder(tmp_path / "made", ORIGIN) as new:
        fill(new)
    assert not (tmp_path / "made" / "half.safetensors").exists()


def test_a_build_never_replaces_what_is_there(model: Path) -> None:
    with pytest.raises(FolderExists, match="tiny already exists"), new_model_folder(model, ORIGIN):
        pass
    assert (model / "config.json").exists()


def test_importing_the_module_loads_no_heavy_library() -> None:
    code = "import serving.models.folder, sys; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(folder_module.__file__).parents[2])
