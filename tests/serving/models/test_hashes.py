"""Which hashes are believed: those that were computed here, of files that have not changed since."""

import json
import os
from pathlib import Path

import pytest

from serving.digest import sha256_of
from serving.environment import STATE
from serving.models import hashes
from serving.models.folder import ModelFolder, Origin, new_model_folder
from tests.serving.models.test_model_folder import fill, safetensors_bytes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with new_model_folder(tmp_path / "made", Origin("a test", "by hand", "CC0-1.0")) as new:
        fill(new)
    return tmp_path / "made"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    monkeypatch.setattr(hashes, "SETTLED_S", 0.0)  # the files of a test are new
    return tmp_path / "state"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read whole, in order."""
    names: list[str] = []

    def counting(file: Path) -> str:
        names.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr(hashes, "sha256_of", counting)
    return names


FOUR = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_file_that_has_not_changed_is_read_once(model: Path, state: Path, read: list[str]) -> None:
    first = ModelFolder.open(model).files
    assert read == FOUR
    assert ModelFolder.open(model).files == first
    assert read == FOUR


def test_the_record_that_a_folder_brings_along_is_not_believed(model: Path, state: Path) -> None:
    record = json.loads((model / "gristmill.json").read_text())
    for entry in record["files"].values():
        entry["sha256"] = "0" * 64
    (model / "gristmill.json").write_text(json.dumps(record))
    assert ModelFolder.open(model).files["config.json"] == sha256_of(model / "config.json")


def test_weights_that_were_swapped_behind_the_same_size_and_time_are_noticed(model: Path, state: Path) -> None:
    weights = model / "model.safetensors"
    before, seen = ModelFolder.open(model).fingerprint, weights.stat()
    weights.write_bytes(safetensors_bytes(payload=b"\7\7\7\7"))
    os.utime(weights, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    assert ModelFolder.open(model).fingerprint != before


def test_a_file_that_only_just_changed_is_not_remembered(
    model: Path, state: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_S", 60.0)
    assert ModelFolder.open(model).files == ModelFolder.open(model).files
    assert read == FOUR * 2


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"/x": 1}', '{"/x": {"seen": 1}}'])
def test_a_damaged_memory_is_forgotten(model: Path, state: Path, content: str) -> None:
    expected = ModelFolder.open(model).files
    (state / hashes.FILE).write_text(content)
    assert ModelFolder.open(model).files == expected


def test_a_memory_that_cannot_be_written_costs_time_and_no_more(model: Path, state: Path, read: list[str]) -> None:
    state.mkdir()
    (state / hashes.FILE).mkdir()
    assert ModelFolder.open(model).files == ModelFolder.open(model).files
    assert read == FOUR * 2


def test_files_that_are_gone_are_forgotten(model: Path, state: Path) -> None:
    ModelFolder.open(model)
    assert len(ModelFolder.open(model).files) == 4
    (model / "tokenizer.json").unlink()
    (model / "config.json").touch()
    assert len(ModelFolder.open(model).files) == 3
    assert [Path(place).name for place in json.loads((state / hashes.FILE).read_text())] == [
        name for name in FOUR if name != "tokenizer.json"
    ]


def test_outside_the_command_nothing_is_remembered(
    model: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STATE, raising=False)
    assert ModelFolder.open(model).files == ModelFolder.open(model).files
    assert read == FOUR * 2


def test_the_fingerprint_follows_from_the_files(model: Path) -> None:
    opened = ModelFolder.open(model)
    assert sorted(opened.files) == FOUR
    assert opened.files["model.safetensors"] == sha256_of(model / "model.safetensors")
