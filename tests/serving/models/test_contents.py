"""Which files, links and settings a model folder may bring; whatever is in it, nothing runs and nothing crashes."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from serving.models import contents, json_file
from serving.models.folder import BadModelFolder, ModelFolder
from tests.serving.models.test_model_folder import CONFIG, change_config, fill

CODE = ("modeling.py", "w.pyc", "w.so", "w.sh", "w.bin", "w.pt", "w.pkl", "w.joblib", "w.npy", "w.npz", "w.h5")
OTHER_CODE = ("w.msgpack", "w.onnx", "w.gguf", "W.GGUF", "model", "a.out", "x.json.exe", ".hidden", "lib.so.1")
REAL = (
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "Notice",
    "USE_POLICY.md",
    ".gitattributes",
    "figure.PNG",
    "merges.txt",
    "tokenizer.model",
    "recipe.yaml",
    ".cache/huggingface/CACHEDIR.TAG",
    ".cache/huggingface/.gitignore",
    ".cache/huggingface/download/config.json.metadata",
    ".cache/huggingface/download/config.json.lock",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return fill(tmp_path / "tiny")


def refusal(model: Path) -> str:
    with pytest.raises(BadModelFolder) as caught:
        ModelFolder.open(model)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


def put(model: Path, name: str, content: str = "") -> Path:
    file = model / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


@pytest.mark.parametrize("name", [*CODE, *OTHER_CODE, "deep/er/modeling.py"])
def test_a_kind_of_file_that_is_not_known_to_be_data_is_refused_by_name(model: Path, name: str) -> None:
    put(model, name)
    said = refusal(model)
    assert said.startswith("E_MODEL_UNSAFE ")
    assert name in said


@pytest.mark.parametrize("name", REAL)
def test_what_real_folders_bring_along_is_no_reason_to_refuse_them(model: Path, name: str) -> None:
    put(model, name)
    assert ModelFolder.open(model).vocab_size == CONFIG["vocab_size"]


def test_a_refusal_lists_the_files_and_keeps_short(model: Path) -> None:
    for number in range(30):
        put(model, f"part-{number:02}.bin")
    said = refusal(model)
    assert "part-00.bin, part-01.bin" in said
    assert "and 22 more" in said


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json", "sub/x.json"])
@pytest.mark.parametrize(
    "entry",
    [
        {"auto_map": {"AutoModel": "x.Y"}},
        {"custom_code": True},
        {"trust_remote_code": True},
        {"trust_remote_code": "yes"},
        {"custom_pipelines": {"x": {"impl": "x.Y"}}},
        {"auto_map": 1},
    ],
    ids=lambda entry: f"{entry}",
)
@pytest.mark.parametrize("deep", [False, True], ids=["outside", "nested"])
def test_a_setting_that_asks_for_code_is_refused_in_any_file_at_any_depth(
    model: Path, file: str, entry: dict[str, object], deep: bool
) -> None:
    put(model, file, json.dumps((CONFIG if file == "config.json" else {}) | ({"a": [{"b": entry}]} if deep else entry)))
    said = refusal(model)
    assert said.startswith("E_MODEL_UNSAFE ")
    assert next(iter(entry)) in said
    assert file in said


def test_a_key_spelt_in_escapes_is_the_same_key(model: Path) -> None:
    put(model, "x.json", '{"\\u0061uto_map": {"AutoModel": "x.Y"}}')
    assert "auto_map" in refusal(model)


def test_a_setting_that_says_no_asks_for_nothing(model: Path) -> None:
    change_config(model, trust_remote_code=False, auto_map=None, custom_code={})
    ModelFolder.open(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "added_tokens.json"])
def test_a_token_may_be_spelt_like_a_setting(model: Path, name: str) -> None:
    put(model, name, json.dumps({"model": {"vocab": {"auto_map": 7, "trust_remote_code": 8}}}))
    ModelFolder.open(model)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b.safetensors"])
def test_an_index_that_points_out_of_its_folder_is_refused(model: Path, shard: str) -> None:
    put(model, "model.safetensors.index.json", json.dumps({"weight_map": {"w": "model.safetensors", "v": shard}}))
    said = refusal(model)
    assert said.startswith("E_MODEL_UNSAFE ")
    assert shard in said


def test_an_index_of_any_format_is_looked_at(model: Path) -> None:
    put(model, "pytorch_model.bin.index.json", json.dumps({"weight_map": {"w": "../../x.bin"}}))
    assert refusal(model).startswith("E_MODEL_UNSAFE ")


def test_a_shard_that_is_missing_is_named(model: Path) -> None:
    put(model, "model.safetensors.index.json", json.dumps({"weight_map": {"w": "model-00002-of-00002.safetensors"}}))
    said = refusal(model)
    assert said.startswith("E_MODEL ")
    assert "model-00002-of-00002.safetensors" in said


def test_the_index_of_a_format_that_was_left_out_may_stay(model: Path) -> None:
    put(model, "pytorch_model.bin.index.json", json.dumps({"weight_map": {"w": "pytorch_model-1.bin"}}))
    ModelFolder.open(model)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}', "[]"])
def test_an_index_without_a_map_is_damaged(model: Path, content: str) -> None:
    put(model, "model.safetensors.index.json", content)
    assert refusal(model).startswith("E_MODEL ")


@pytest.mark.parametrize("kind", ["file", "folder", "absolute", "cache"])
def test_a_link_that_leaves_the_folder_is_refused_with_a_way_out(tmp_path: Path, model: Path, kind: str) -> None:
    outside = tmp_path / "tiny-blobs"  # its name begins like the folder's
    outside.mkdir()
    (outside / "x.json").write_text("{}")
    target = {"file": "../tiny-blobs/x.json", "folder": "../tiny-blobs", "absolute": str(outside / "x.json")}
    (model / "linked.json").symlink_to(target.get(kind, "../tiny-blobs/not-yet-there"))
    said = refusal(model)
    assert said.startswith("E_MODEL_UNSAFE ")
    assert "linked.json" in said
    assert "cp -rL" in said


def test_a_link_that_stays_inside_and_a_linked_folder_are_fine(tmp_path: Path, model: Path) -> None:
    (model / "tokenizer.model").symlink_to("tokenizer.json")
    (tmp_path / "alias").symlink_to(model)
    assert ModelFolder.open(tmp_path / "alias").fingerprint == ModelFolder.open(model).fingerprint


def test_a_link_to_itself_and_a_pipe_are_refused_and_nothing_hangs(model: Path) -> None:
    (model / "loop.json").symlink_to("loop.json")
    os.mkfifo(model / "pipe.json")
    said = refusal(model)
    assert "loop.json, pipe.json" in said
    assert said.startswith("E_MODEL_UNSAFE ")


def test_a_config_that_is_a_pipe_does_not_hang(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    assert "config.json" in refusal(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "x.json"])
def test_json_nested_beyond_any_parser_is_refused(model: Path, name: str) -> None:
    put(model, name, '{"a":' * 100_000)
    said = refusal(model)
    assert said.startswith("E_MODEL ")
    assert name in said


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_json_of_absurd_size_is_refused_unread(model: Path, name: str) -> None:
    with (model / name).open("wb") as file:
        file.truncate(200_000_000)  # sparse: it takes no room
    said = refusal(model)
    assert said.startswith("E_MODEL ")
    assert "200000000 bytes" in said


def test_the_largest_tokenizers_in_use_are_read() -> None:
    assert json_file.MAX_BYTES > 35_000_000


def test_a_folder_of_countless_files_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_FILES", 20)
    for number in range(30):
        put(model, f"{number}.txt")
    assert refusal(model).startswith("E_MODEL ")


def test_folders_nested_beyond_any_use_are_refused(model: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(model)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    said = refusal(model)
    subprocess.run(["rm", "-rf", model / "d"], check=True)  # pytest's own clearing up would not get through
    assert said.startswith("E_MODEL ")


def test_what_a_folder_says_of_itself_does_not_drive_a_terminal(model: Path) -> None:
    change_config(model, architectures=["Llama\x1b[31m\u202e\nForCausalLM"])
    put(model, "gristmill.json", json.dumps({"origin": {"source": "\x07", "method": "m", "licence": "\x1b]0;x\x07"}}))
    opened = ModelFolder.open(model)
    assert opened.architecture == "Llama[31mForCausalLM"
    assert opened.origin is not None
    assert (opened.origin.source, opened.origin.licence) == ("", "]0;x")


def test_any_damage_to_a_folder_is_a_refusal_never_a_crash(model: Path) -> None:
    """Two thousand folders with a few bytes or values wrong: each opens, or is refused with a code."""
    chance = random.Random(4)
    values = [None, True, -1, 0, 10**30, 1.5, "", "x" * 5000, [], [[]], {}, {"a": None}, ["b"], {"content": []}]
    names = ["config.json", "tokenizer_config.json", "model.safetensors", "tokenizer.json", "special_tokens_map.json"]
    refused = []
    for _ in range(2000):
        fill(model)
        put(model, "special_tokens_map.json", '{"bos_token": "<s>", "pad_token": {"content": "<p>"}}')
        name = chance.choice(names)
        content = bytearray((model / name).read_bytes())
        if name != "model.safetensors" and chance.random() < 0.5:
            keys = [*CONFIG, "quantization_config", "head_dim", "chat_template", "bos_token", "weight_map", "files"]
            content = bytearray(
                json.dumps(
                    json.loads(content) | {chance.choice(keys): chance.choice(values) for _ in range(2)}
                ).encode()
            )
        else:
            for _ in range(chance.randint(1, 4)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        (model / name).write_bytes(content)
        try:
            opened = ModelFolder.open(model)
            assert opened.vocab_size > 0
            assert len(opened.fingerprint) == 64
        except BadModelFolder as error:
            refused.append(str(error).split()[0])
    assert len(refused) > 200
    assert set(refused) <= {"E_MODEL", "E_MODEL_UNSAFE"}
