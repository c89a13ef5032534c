"""What `settle` makes of a process, and which installed parts are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving import environment
from serving.engines.machine import CannotRun
from serving.environment import LEAST_VERSIONS, STATE, outdated, own_folder

ROOT = Path(__file__).parents[2]
AFTER_SETTLE = """
import json, os, resource, subprocess, sys
from pathlib import Path
from serving.environment import settle
settle(Path(sys.argv[1]))
mask = os.umask(0)
os.umask(mask)
core = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
child = subprocess.run([sys.executable, "-c", core], capture_output=True, text=True).stdout.split()
core = resource.getrlimit(resource.RLIMIT_CORE)
print(json.dumps({"umask": mask, "core": core, "core_of_child": child, "env": dict(os.environ)}))
"""


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    state = tmp_path_factory.mktemp("settled") / ".gristmill"
    command = [sys.executable, "-P", "-c", AFTER_SETTLE, str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_written_is_its_owners_alone(settled: dict[str, Any]) -> None:
    assert settled["umask"] == 0o077


def test_neither_we_nor_our_children_leave_a_core_dump(settled: dict[str, Any]) -> None:
    assert settled["core"] == [0, 0]
    assert settled["core_of_child"] == ["0", "0"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_HUB_OFFLINE", "1"),
        ("TRANSFORMERS_OFFLINE", "1"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("DO_NOT_TRACK", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "false"),
        ("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "false"),
    ],
)
def test_nothing_is_fetched_reported_or_kept_by_others(settled: dict[str, Any], name: str, value: str) -> None:
    assert settled["env"][name] == value


@pytest.mark.parametrize("way", ["-O", "-OO", "PYTHONOPTIMIZE"])
def test_python_without_assertions_is_refused(tmp_path: Path, way: str) -> None:
    """vLLM's refusal of a model's own code is an assertion in some versions (CVE-2026-41523)."""
    options = [way] if way.startswith("-") else []
    variables = {} if options else {"PYTHONOPTIMIZE": "1"}
    command = [sys.executable, *options, "-P", "-c", AFTER_SETTLE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)
    assert done.returncode != 0
    assert "PYTHONOPTIMIZE" in done.stderr


def test_what_is_installed_here_is_new_enough() -> None:
    assert outdated() == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("jinja2", "3.1.5", "3.1.6"),
        ("pyarrow", "14.0.0", "14.0.1"),
        ("ray", "2.54.9", "2.55.0"),
        ("torch", "2.9.1+cpu", "2.10.0+cpu"),
        ("transformers", "5.2.0", "5.3.0"),
        ("vllm", "0.31.2", "0.32.0"),
        ("prefect", "3.6.22", "3.7.4"),
    ],
)
def test_a_part_with_a_known_hole_is_named(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    monkeypatch.setattr(environment, "_installed", {name: old}.get)
    assert outdated() == [f"{name} {old} is older than {LEAST_VERSIONS[name]}"]
    monkeypatch.setattr(environment, "_installed", {name: new}.get)
    assert outdated() == []


def test_asking_for_versions_imports_nothing() -> None:
    code = "import sys; from serving.environment import outdated; outdated(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"torch", "vllm", "pyarrow", "jinja2", "ray"} & set(done.stdout.split()) == set()


def test_an_own_folder_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    (tmp_path / "state" / "vllm").mkdir(parents=True, mode=0o777)
    (tmp_path / "state" / "vllm").chmod(0o777)
    folder = own_folder("vllm")
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_an_own_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / "vllm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotRun, match="not a folder of this user"):
        own_folder("vllm")


def test_before_it_is_settled_there_is_no_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE, raising=False)
    assert own_folder() is None
