"""Engines that die or hang midway: found in seconds, said with the rows it was about, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine_config import EngineConfig, Parallelism
from serving.engines.machine import Machine
from serving.engines.vllm_process import VllmProcess
from serving.records import EngineDied, Request, Sampling
from tests.engine_room.checkpoints import random_llama
from tests.engine_room.conftest import ROOT, request, running

pytestmark = pytest.mark.engines

LONG = Sampling(max_tokens=600)


def batch() -> list[Request]:
    return [request(row, tuple(range(3, 23 + row)), LONG) for row in range(6)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("small") / "eight", 8, 4)


def after_some_steps(process: VllmProcess, do: Callable[[int], None]) -> None:
    """In the middle of a run, from another thread."""

    def watch() -> None:
        while process.steps < 5:
            time.sleep(0.02)
        assert process.pid is not None
        do(process.pid)

    threading.Thread(target=watch, daemon=True).start()


def test_a_killed_engine_names_the_rows_of_its_last_step(small: Path, machine: Machine, tmp_path: Path) -> None:
    with running(EngineConfig(), machine, tmp_path / "log", small) as engine:
        after_some_steps(engine.engine.processes[0], lambda pid: os.kill(pid, signal.SIGKILL))
        with pytest.raises(EngineDied, match=r"with 6 requests in flight \(exit code -9\)") as death:
            engine.answer(batch())
    assert sorted(death.value.suspects) == list(range(6))


def test_a_hung_engine_is_found_by_its_steps(small: Path, machine: Machine, tmp_path: Path) -> None:
    with running(EngineConfig(), machine, tmp_path / "log", small, hangs_s=3.0) as engine:
        after_some_steps(engine.engine.processes[0], lambda pid: os.kill(pid, signal.SIGSTOP))
        began = time.monotonic()
        with pytest.raises(EngineDied, match=r"after no step in 3 s"):
            engine.answer(batch())
    assert time.monotonic() - began < 30


PARENT = """
import sys
from dataclasses import replace
from pathlib import Path
from serving.engine_config import EngineConfig, PagedCache, Parallelism
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_engine import VllmEngine

machine = this_machine()
machine = replace(machine, cores=(*machine.cores, *machine.cores)[:2])
asked = EngineConfig(cache=PagedCache(memory_gib=0.25), parallelism=Parallelism(tensor=2), max_model_len=512)
with VllmEngine(Path(sys.argv[1]), settled(asked, machine), machine, Path(sys.argv[2]), lambda: False, None):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_no_rank_outlives_a_killed_parent_by_five_seconds(small: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(small), str(tmp_path / "log")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    (server,) = children_of(parent.pid)
    (worker,) = children_of(server)
    group = [server, *members_of(worker)]
    assert len(group) >= 5, "the fork server, the worker, its leash, and two ranks at the least"
    parent.kill()
    parent.communicate()
    gone_by = time.monotonic() + 5.0
    while alive := [pid for pid in group if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
        assert time.monotonic() < gone_by, f"still there: {alive}"
        time.sleep(0.1)


def children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def members_of(group: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if group_of(pid) == group]


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_two_engines_side_by_side_answer_every_row_once(small: Path, machine: Machine, tmp_path: Path) -> None:
    short = [request(row, tuple(range(3, 13 + row)), Sampling(max_tokens=8)) for row in range(40)]
    with running(EngineConfig(parallelism=Parallelism(data=2)), machine, tmp_path / "log", small) as engine:
        answers = engine.answer(short)
        assert all(process.steps > 0 for process in engine.engine.processes)
    assert sorted(answers) == list(range(40))
