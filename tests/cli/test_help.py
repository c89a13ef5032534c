"""What the command says of itself."""

import subprocess
from importlib.metadata import version

import pytest

from tests.cli.command import COMMAND, Place, rows

COMMANDS = ("run", "status", "verify", "export", "costs", "models", "schedule", "predict", "explain", "doctor")


def test_help_names_every_command(place: Place) -> None:
    done = place.gristmill("--help")
    assert done.code == 0
    assert [name for name in COMMANDS if name not in done.out] == []


def test_help_is_there_at_once(place: Place) -> None:
    """Under half a second by design; a second leaves room for a busy machine."""
    assert min(place.gristmill("--help").wall_s for _ in range(3)) < 1.0


def test_version(place: Place) -> None:
    assert place.gristmill("--version").out == f"gristmill {version('gristmill')}\n"


@pytest.mark.parametrize("arguments", [[], ["grind"], ["run"], ["costs", "--format", "xml"]])
def test_a_command_that_is_not_known_is_exit_code_2(place: Place, arguments: list[str]) -> None:
    done = place.gristmill(*arguments)
    assert done.code == 2
    assert "usage: gristmill" in done.err


def test_a_reader_that_leaves_early_is_no_error(place: Place) -> None:
    """As in `gristmill costs | head -0`."""
    shell = f"set -o pipefail; {COMMAND} costs | true"
    done = subprocess.run(["bash", "-c", shell], cwd=place.folder, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_for_output_is_not_silent(place: Place) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "costs"], cwd=place.folder, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode != 0


def test_the_receipt_is_the_only_output(place: Place) -> None:
    place.prompts(rows(2))
    done = place.gristmill("run", "job.toml")
    assert done.out.startswith("gristmill  prompts-")
    assert "starting" in done.err
