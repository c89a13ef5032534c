"""What is installed is what was locked, and nothing runs at the start of Python that nobody asked for."""

import re
import site
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# A .pth file runs at every start of Python; that is how litellm 1.82.8 stole keys (PYSEC-2026-2).
KNOWN_PTH = {
    "__editable__.gristmill-*.pth": "how `pip install --editable .` finds this checkout",
    "distutils-precedence.pth": "setuptools, which came with the environment",
    "nvidia_cutlass_dsl.pth": "in the CUDA build: adds a folder to the path, for vLLM's kernels",
}


def requirements(lock: Path) -> list[str]:
    """The logical lines of a lock: a requirement with its hashes."""
    text = re.sub(r"\\\n", " ", lock.read_text(encoding="utf-8"))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_there_are_locks() -> None:
    assert {lock.name for lock in LOCKS} >= {"cpu.txt", "cuda.txt", "dev.txt", "torch.txt"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_part_has_a_version_and_hashes(lock: Path) -> None:
    assert requirements(lock)
    loose = [
        line[:60]
        for line in requirements(lock)
        if not re.match(r"[\w.\-\[\]]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)
    ]
    assert loose == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_no_lock_names_an_index_or_an_address(lock: Path) -> None:
    assert [line for line in requirements(lock) if line.startswith("-") or "://" in line] == []


def test_set_up_installs_only_by_hash() -> None:
    """But for this checkout itself, and PyTorch's libraries where the index has no CPU build."""
    lines = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "pip install" in line]
    locked = [line for line in lines if "--require-hashes" in line and "--no-deps" in line]
    others = [line for line in lines if line not in locked]
    assert len(locked) >= 4
    assert [line for line in others if "--editable ." not in line and "torch==" not in line] == []


def test_nothing_unknown_runs_when_python_starts() -> None:
    found = [file.name for folder in site.getsitepackages() for file in Path(folder).glob("*.pth")]
    assert [name for name in found if not any(fnmatch(name, known) for known in KNOWN_PTH)] == []
    assert not [name for folder in site.getsitepackages() for name in Path(folder).glob("*customize.py")]
