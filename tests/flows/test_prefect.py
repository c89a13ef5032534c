"""The same stages under Prefect: a flow in this process, and a deployment on a cron, both for real."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRISTMILL = ROOT / ".venv" / "bin" / "gristmill"
JOB = """
[dataset]
path = "prompts.jsonl"
[model]
full = "echo"
[engine]
kind = "echo"
[price]
usd_per_hour = 0.1
"""

pytestmark = pytest.mark.real


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"id": f"row-{number}", "prompt": f"say {number % 7}"} for number in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def results(folder: Path) -> list[str]:
    found = next(folder.glob("runs/*/export/results.jsonl"), None)
    return [] if found is None else [json.loads(line)["custom_id"] for line in found.read_text().splitlines()]


def test_a_job_runs_as_a_flow_with_no_server_running(folder: Path) -> None:
    command = [str(GRISTMILL), "run", "job.toml", "--prefect"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "20 = 20 answered + 0 refused + 0 failed + 0 expired" in done.stdout
    assert sorted(results(folder)) == sorted(f"row-{number}" for number in range(20))


def test_a_scheduled_job_runs_when_its_minute_comes(folder: Path) -> None:
    command = [str(GRISTMILL), "schedule", "job.toml", "--cron", "* * * * *"]
    with (folder / "said.log").open("wb") as said:
        serving = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=said, stderr=said, start_new_session=True
        )
    try:
        give_up = time.monotonic() + 240
        while len(results(folder)) < 20:
            assert serving.poll() is None, (folder / "said.log").read_text()
            assert time.monotonic() < give_up, (folder / "said.log").read_text()
            time.sleep(1.0)
    finally:
        os.killpg(serving.pid, signal.SIGINT)
        try:
            serving.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(serving.pid, signal.SIGKILL)
            serving.wait()

    assert sorted(results(folder)) == sorted(f"row-{number}" for number in range(20))
