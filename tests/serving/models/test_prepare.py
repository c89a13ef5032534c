"""Preparing from a wheel: whole folders only, no work twice, nothing of the user's overwritten."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from serving.models.catalogue import CATALOGUE, GgufModel, PlainModel, QuantizedModel
from serving.models.folder import FolderExists, ModelFolder
from serving.models.prepare import list_models, prepare
from serving.models.wheels import Wheel, WheelMismatch

CONFIG = {"architectures": ["BertModel"], "max_position_embeddings": 8, "vocab_size": 9, "num_attention_heads": 1}
HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER + bytes(4),
    "1_Pooling/config.json": b"{}",
}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, content in (FILES | {"setup.py": b"boom", "x.gguf": b"GGUF"}).items():
            archive.writestr(f"pkg/model/{name}", content)
    return folder


def wheel_in(wheels: Path) -> Wheel:
    return Wheel("tiny-model==1.0", sha256(next(wheels.glob("*.whl")).read_bytes()).hexdigest(), 1)


def plain(wheels: Path) -> PlainModel:
    return PlainModel("tiny", wheel_in(wheels), "pkg/model", tuple(FILES), "CC0-1.0", 1)


def test_the_listed_files_and_only_they_are_unpacked(tmp_path: Path, wheels: Path) -> None:
    (made,) = prepare(tmp_path / "models", wheels, lambda line: None, [plain(wheels)])
    found = {file.relative_to(made).as_posix(): file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert found.pop("gristmill.json")
    assert found == FILES
    assert not list((tmp_path / "models").glob("*.partial"))


def test_messages_name_the_model_and_the_sizes(tmp_path: Path, wheels: Path) -> None:
    said: list[str] = []
    prepare(tmp_path / "models", wheels, said.append, [plain(wheels)])
    assert said == ["tiny: getting tiny-model==1.0 (1 MB, downloaded once)", "tiny: unpacking (1 MB)"]


def test_a_complete_model_is_not_made_again(tmp_path: Path, wheels: Path) -> None:
    said: list[str] = []
    (made,) = prepare(tmp_path / "models", wheels, said.append, [plain(wheels)])
    written = (made / "gristmill.json").stat().st_mtime_ns
    prepare(tmp_path / "models", wheels, said.append, [plain(wheels)])
    assert said[-1] == "tiny: already there"
    assert (made / "gristmill.json").stat().st_mtime_ns == written


def test_an_incomplete_folder_is_neither_used_nor_deleted(tmp_path: Path, wheels: Path) -> None:
    (made,) = prepare(tmp_path / "models", wheels, lambda line: None, [plain(wheels)])
    (made / "model.safetensors").unlink()
    with pytest.raises(FolderExists, match=r"not complete.*delete it and prepare again"):
        prepare(tmp_path / "models", wheels, lambda line: None, [plain(wheels)])
    assert (made / "config.json").exists()


def test_a_gguf_member_with_other_bytes_than_pinned_is_refused(tmp_path: Path, wheels: Path) -> None:
    model = GgufModel("tiny", wheel_in(wheels), "pkg/model/x.gguf", "0" * 64, "CC0-1.0", 1)
    with pytest.raises(WheelMismatch, match=r"x\.gguf has sha256 .*pinned is 0000"):
        prepare(tmp_path / "models", wheels, lambda line: None, [model])
    assert not (tmp_path / "models").exists()


def test_the_list_has_usable_models_by_name_and_tells_why_one_is_left_out(tmp_path: Path, wheels: Path) -> None:
    models, refused = tmp_path / "models", list[str]()
    (made,) = prepare(models, wheels, lambda line: None, [plain(wheels)])
    for name in ("a-linked", "zz.partial"):
        (models / name).symlink_to(made)
    (models / "broken").mkdir()
    (models / "broken" / "config.json").write_text("{}")
    (models / "no-model").mkdir()
    assert [model.name for model in list_models(models, refused.append)] == ["a-linked", "tiny"]
    assert len(refused) == 1
    assert "broken: no *.safetensors" in refused[0]


def test_listing_a_folder_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    assert list_models(tmp_path / "models") == []


def test_an_origin_names_wheel_and_hash(tmp_path: Path, wheels: Path) -> None:
    model = plain(wheels)
    origin = ModelFolder.open(prepare(tmp_path / "models", wheels, lambda line: None, [model])[0]).origin
    assert origin is not None
    assert origin.source == f"tiny-model==1.0 (wheel sha256 {model.wheel.sha256})"
    assert origin.licence == "CC0-1.0"


def test_the_catalogue_builds_every_source_before_its_copies() -> None:
    names = [model.name for model in CATALOGUE]
    assert names == ["smollm2-135m-instruct", "smollm2-135m-instruct-w8a8", "all-minilm-l6-v2"]
    copies = [model for model in CATALOGUE if isinstance(model, QuantizedModel)]
    assert all(names.index(copy.source) < names.index(copy.name) for copy in copies)
