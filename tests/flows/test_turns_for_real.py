"""Two jobs that Prefect starts at the same minute on one machine, with the real engine: one after the other."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRISTMILL = ROOT / ".venv" / "bin" / "gristmill"
JOB = """
[dataset]
path = "{folder}/prompts.jsonl"
[model]
full = "models/smollm2-135m-instruct"
[sampling]
max_tokens = 48
[price]
usd_per_hour = 0.1
"""

pytestmark = [pytest.mark.real, pytest.mark.engines]


def started(folder: Path) -> "subprocess.Popen[str]":
    folder.mkdir()
    rows = [{"id": f"row-{number}", "prompt": f"Say {number} in words, of {folder.name}."} for number in range(24)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.toml").write_text(JOB.format(folder=folder))
    command = [str(GRISTMILL), "--runs", str(folder / "runs"), "run", str(folder / "job.toml"), "--prefect"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_they_do_not_overlap_on_the_engine(tmp_path: Path) -> None:
    both = [started(tmp_path / name) for name in ("one", "other")]
    said = [run.communicate(timeout=500) for run in both]
    assert [run.returncode for run in both] == [0, 0], said
    waited = ["waits for its turn" in stderr for _, stderr in said]
    assert sorted(waited) == [False, True], said
    assert all("24 = 24 answered" in stdout for stdout, _ in said)
