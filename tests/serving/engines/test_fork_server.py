"""Engines as forks of one process: told apart, ended alone, and gone with whoever asked for them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.engines import fork_server
from serving.engines.fork_server import Forked, ForkServer, ForkServers

ROOT = Path(__file__).parents[3]
# The real loop of the real worker, around an engine that does what it is told, and nothing to import.
STAND_IN = f"""
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("vllm_worker", {str(fork_server.WORKER)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def engine(order, descriptors, server):
    os.setsid()
    worker._die_with_parent(server)
    os.write(descriptors[2], b"%d\\n" % os.getppid())
    os.dup2(descriptors[1], 2)
    if order["do"] == "raise":
        raise ValueError("no such model")
    if order["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order["do"] == "live":
        time.sleep(60)

worker._import_vllm = lambda: time.sleep(float(os.environ.get("IMPORT_S", "0")))
worker._be_an_engine = engine
worker.main()
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in = tmp_path / "worker.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(fork_server, "WORKER", stand_in)
    return stand_in


@pytest.fixture
def fork(worker: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[Forked, int]]]:
    """Ask for an engine; returns it with the number of the process that it was forked from."""
    with ForkServers() as servers:

        def ask(do: str, place: str = "0") -> tuple[Forked, int]:
            server = servers.of(None, {**os.environ, "PLACE": place}, tmp_path)
            return asked(server, do, tmp_path / "log")

        yield ask


def asked(server: ForkServer, do: str, log: Path) -> tuple[Forked, int]:
    answers, tells = os.pipe()
    with log.open("ab") as output:
        forked = server.fork({"do": do}, [tells], output.fileno())
    os.close(tells)
    with os.fdopen(answers) as lines:
        return forked, int(lines.readline())


def gone(pid: int) -> bool:
    give_up = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def test_the_next_engine_comes_from_the_same_process(fork: Callable[..., tuple[Forked, int]]) -> None:
    first, server = fork("die")
    assert first.exit_code() == -signal.SIGKILL
    first.end()
    second, again = fork("live")
    second.end()
    assert server == again
    assert first.pid != second.pid


def test_each_environment_has_a_process_of_its_own(fork: Callable[..., tuple[Forked, int]]) -> None:
    (first, one), (second, other) = fork("live", place="0"), fork("live", place="1")
    first.end()
    assert one != other
    assert Path(f"/proc/{other}").exists()
    second.end()


def test_ending_one_of_two_leaves_the_other(fork: Callable[..., tuple[Forked, int]]) -> None:
    (first, _), (second, _) = fork("live"), fork("live")
    first.end()
    assert second._listen(0.2)
    assert second.pid is not None
    assert Path(f"/proc/{second.pid}").exists()
    second.end()
    assert gone(second.pid)


@pytest.mark.parametrize(("do", "code"), [("raise", 1), ("die", -9), ("return", 0)])
def test_how_it_ended_is_told(fork: Callable[..., tuple[Forked, int]], do: str, code: int) -> None:
    forked, _ = fork(do)
    assert forked.exit_code() == code
    forked.end()


def test_what_an_engine_dies_of_stands_in_its_log(fork: Callable[..., tuple[Forked, int]], tmp_path: Path) -> None:
    forked, _ = fork("raise")
    forked.exit_code()
    forked.end()
    assert "ValueError: no such model" in (tmp_path / "log").read_text()


def test_what_is_not_forked_yet_ends_at_once(worker: Path, tmp_path: Path) -> None:
    server = ForkServer(None, {**os.environ, "IMPORT_S": "60"}, tmp_path)
    with (tmp_path / "log").open("ab") as log:
        forked = server.fork({"do": "live"}, [], log.fileno())
    assert forked.pid is None
    began = time.monotonic()
    forked.end()
    assert time.monotonic() - began < 5.0


def test_a_server_that_cannot_import_ends_like_an_engine_that_died(worker: Path, tmp_path: Path) -> None:
    worker.write_text("raise ImportError('no vllm here')")
    server = ForkServer(None, os.environ, tmp_path)
    with (tmp_path / "log").open("ab") as log:
        forked = server.fork({}, [], log.fileno())
    assert forked.exit_code() == 1
    forked.end()
    assert "no vllm here" in (tmp_path / "log").read_text()


def test_a_server_that_was_killed_is_started_again(fork: Callable[..., tuple[Forked, int]]) -> None:
    first, server = fork("live")
    os.kill(server, signal.SIGKILL)
    assert first.pid is None or gone(first.pid)
    first.end()
    second, again = fork("live")
    second.end()
    assert again != server


def test_nothing_that_an_engine_leaves_lying_about_stays(worker: Path, tmp_path: Path) -> None:
    with ForkServers() as servers:
        forked, server = asked(servers.of(None, os.environ, tmp_path), "live", tmp_path / "log")
        environment = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
        [scratch] = [Path(line.removeprefix(b"TMPDIR=").decode()) for line in environment if line[:7] == b"TMPDIR="]
        (scratch / "vllm_dist_0").touch()
        forked.end()
    assert not scratch.exists()


PARENT = """
import json, os, sys
from pathlib import Path
from serving.engines import fork_server
fork_server.WORKER = Path(sys.argv[1])
answers, tells = os.pipe()
forked = fork_server.ForkServer(None, os.environ, Path("whose")).fork({"do": "live"}, [tells], 2)
server = int(os.fdopen(answers).readline())
forked._listen(5)
print(json.dumps([server, forked.pid]), flush=True)
sys.stdin.read()
"""


def test_nothing_outlives_a_killed_parent(worker: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    pids = json.loads(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert all(gone(pid) for pid in pids)
