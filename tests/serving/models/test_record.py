"""gristmill.json: what it says of the making and the measuring comes back, and is not believed beyond its form."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from serving.models.folder import BadModelFolder, ModelFolder, is_complete, new_model_folder
from serving.models.record import Calibration, Fidelity, Origin, add_fidelity, read_record
from tests.serving.models.tiny import save_model

ORIGIN = Origin("a test", "by hand", "CC0-1.0")
CALIBRATION = Calibration("rows.jsonl", "ab" * 32, 7, 1234, (5, 3, 8))
FIDELITY = Fidelity(
    full="big", dataset="rows.jsonl", input_sha256="ab" * 32, seed=7, rows=64, tokens=2000,
    exact_share=0.5, prefix_share=0.75, top1_share=0.97, mean_kl_nats=0.01, full_perplexity=1.5, perplexity=1.6,
    full_bytes=200, size_bytes=100, full_output_tokens_per_s=None, output_tokens_per_s=None,
    speed_note="not measured", machine="a machine", date="2026-11-25",
)  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with new_model_folder(tmp_path / "made", ORIGIN, CALIBRATION) as new:
        save_model(new)
    return tmp_path / "made"


def test_the_rows_that_were_looked_at_are_in_the_record(made: Path) -> None:
    found = read_record(made)["calibration"]
    assert found == {**asdict(CALIBRATION), "rows": [5, 3, 8]}


def test_a_model_made_without_rows_has_no_calibration(tmp_path: Path) -> None:
    with new_model_folder(tmp_path / "made", ORIGIN) as new:
        save_model(new)
    assert "calibration" not in read_record(tmp_path / "made")


def test_a_measurement_comes_back_and_a_later_one_takes_its_place(made: Path) -> None:
    assert ModelFolder.open(made).fidelity is None
    add_fidelity(made, FIDELITY)
    assert ModelFolder.open(made).fidelity == FIDELITY
    later = replace(FIDELITY, full_output_tokens_per_s=100.0, output_tokens_per_s=150.0, speed_note="")
    add_fidelity(made, later)
    assert ModelFolder.open(made).fidelity == later


def test_measuring_changes_nothing_that_can_change_an_answer(made: Path) -> None:
    before, origin = ModelFolder.open(made).fingerprint, ModelFolder.open(made).origin
    add_fidelity(made, FIDELITY)
    after = ModelFolder.open(made)
    assert (after.fingerprint, after.origin) == (before, origin)
    assert is_complete(made)
    assert read_record(made)["calibration"]["seed"] == 7
    assert [file.name for file in made.parent.iterdir()] == ["made"]


@pytest.mark.parametrize("name", [field.name for field in fields(Fidelity)])
def test_a_measurement_that_lacks_a_figure_is_refused_by_its_name(made: Path, name: str) -> None:
    facts = asdict(FIDELITY)
    del facts[name]
    put(made, facts)
    with pytest.raises(BadModelFolder, match=f"not of the form .*{name}"):
        ModelFolder.open(made)


def test_a_measurement_cannot_drive_the_terminal(made: Path) -> None:
    put(made, {**asdict(FIDELITY), "speed_note": "\x1b]0;x\x07", "top1_share": "0.5"})
    found = ModelFolder.open(made).fidelity
    assert found is not None
    assert (found.speed_note, found.top1_share) == ("]0;x", 0.5)


def put(made: Path, facts: dict[str, Any]) -> None:
    record = made / "gristmill.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"fidelity": facts}))
