"""The judging command: where its files are, and what is said of one that cannot be used."""

import hashlib
import sys
from pathlib import Path

import pytest

from serving.config import BadJob
from serving.judges.command import Command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, mode in (("check", 0o700), ("check.py", 0o600), ("cases.json", 0o600)):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    return tmp_path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_files_of_the_callers_folder_are_named_whole_and_pinned(folder: Path) -> None:
    found = Command.find(["./check", "-v", "cases.json", "words"], folder)
    assert found.words == (str(folder / "check"), "-v", str(folder / "cases.json"), "words")
    assert found.files == {"./check": sha256("check"), "cases.json": sha256("cases.json")}


def test_a_program_of_the_system_is_found_on_the_path_and_counts_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    found = Command.find(["python", "check.py"], folder)
    assert found.words == (str(Path(sys.executable).parent / "python"), str(folder / "check.py"))
    assert found.files == {"check.py": sha256("check.py")}


def test_a_changed_byte_is_another_command(folder: Path) -> None:
    before = Command.find(["./check"], folder)
    (folder / "check").write_text("chick")
    assert Command.find(["./check"], folder) != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-program"], "names no-such-program, which is not on the PATH; write its path"),
        (["check"], "which is not on the PATH; write its path, such as ./check"),
        (["./chek"], "names ./chek, which is not in"),
        (["./check.py"], "which may not be run; write chmod +x ./check.py"),
        (["sh", "chek.py"], "names chek.py, which is not in"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(BadJob, match=r"quality\.command") as refused:
        Command.find(words, folder)
    assert said in str(refused.value)
