"""Two runs on one machine never have their engines on the same cores or GPUs at once."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.limits import Stopped
from flows.turn import places, turn
from serving.config import EngineSection
from serving.engines.gpus import Gpu
from serving.engines.machine import CannotRun, Machine

HOLDS = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, b"process 7 (run other)")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def machine(cores: int = 2, gpus: int = 0) -> Machine:
    return Machine(
        "a CPU",
        tuple(range(cores)),
        frozenset(),
        2**34,
        2**33,
        tuple(Gpu("H100", 2**36, 9.0, str(number)) for number in range(gpus)),
    )


def job(here: bool = True, said: list[str] | None = None, stop: Any = lambda: False) -> Any:
    return SimpleNamespace(
        job=SimpleNamespace(engine=EngineSection(), computes_here=here),
        progress=SimpleNamespace(say=(said if said is not None else []).append),
        limits=SimpleNamespace(stop=stop),
        run=SimpleNamespace(run_id="mine"),
    )


def test_a_second_engine_starts_only_when_the_first_is_gone() -> None:
    order: list[str] = []

    def second() -> None:
        with turn(job()):
            order.append("second")

    with turn(job()):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.5)
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]


def test_whoever_waits_says_for_whom(own_folder: Path) -> None:
    said: list[str] = []
    waits = iter([False, True])
    with turn(job()), pytest.raises(Stopped), turn(job(said=said, stop=lambda: next(waits))):
        raise AssertionError("it had no turn")
    [line] = said
    assert "(run mine) has an engine on core-" in line


def test_a_killed_holder_is_out_of_the_way_at_once(own_folder: Path) -> None:
    with turn(job()):
        [lock, *_] = sorted((next(own_folder.glob("gristmill-*"))).glob("*.lock"))
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    threading.Timer(0.5, holder.kill).start()
    began = time.monotonic()
    said: list[str] = []
    with turn(job(said=said)):
        assert 0.3 < time.monotonic() - began < 5
    assert "process 7 (run other)" in said[0]
    holder.wait()
    holder.stdout.close()


def test_an_engine_elsewhere_waits_for_nobody() -> None:
    with turn(job()), turn(job(here=False)):
        pass


def test_an_engine_on_gpus_holds_the_first_that_it_sees_by_the_drivers_numbers() -> None:
    assert places(machine(), 1) == ["core-0", "core-1"]
    assert places(machine(gpus=4), 2) == ["gpu-0", "gpu-1"]
    some = replace(machine(), gpus=tuple(Gpu("H100", 2**36, 9.0, number) for number in "32"))
    assert places(some, 2) == ["gpu-2", "gpu-3"]
    assert places(some, 1) == ["gpu-3"]


def test_a_folder_that_another_user_could_hold_up_is_refused(own_folder: Path) -> None:
    import os

    (own_folder / f"gristmill-{os.geteuid()}").symlink_to("/usr")
    with pytest.raises(CannotRun, match="not a folder of this user"), turn(job()):
        pass
