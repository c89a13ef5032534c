"""`gristmill doctor` and `gristmill models`, as a person meets them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRISTMILL = ROOT / ".venv" / "bin" / "gristmill"


def gristmill(*arguments: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(GRISTMILL), *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "line", ["cpu ", "memory ", "gpu ", "parts ", "int8 ", "engine ", "models ", "  4-bit weights "]
)
def test_doctor_tells_what_the_machine_can_run(line: str) -> None:
    done = gristmill("doctor")

    assert done.returncode == 0
    assert any(said.startswith(line) for said in done.stdout.splitlines())


def test_models_list_names_both_lanes_of_the_sample_with_their_precision() -> None:
    said = gristmill("models", "list").stdout

    assert [line.split()[2] for line in said.splitlines() if "smollm2" in line] == ["bf16", "w8a8"]


def test_models_list_without_models_names_the_way_out(tmp_path: Path) -> None:
    assert "gristmill models prepare" in gristmill("models", "list", folder=tmp_path).stdout


def test_quantizing_over_a_folder_is_refused() -> None:
    done = gristmill("models", "quantize", "models/smollm2-135m-instruct", "models/smollm2-135m-instruct-w8a8")

    assert done.returncode == 2
    assert "already exists" in done.stderr
