"""Starts the command: as a fork of the server, which is fast, or as it is installed, so that nothing is hidden."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.cli.command import COMMAND

SERVER = Path(__file__).with_name("forge.py")
AT_A_TIME = 3  # on two cores: a trial waits for its processes a third of its time
LIMIT_S = 30.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Start:
    """One process: in which folder, with which arguments, and what is to befall it."""

    folder: Path
    calls: list[list[str]]  # the arguments of the command; several are called one after the other while all is well
    control: Path | None = None  # of an armed shim
    environment: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()  # variables of the environment that are not there
    umask: int | None = None
    signals: tuple[tuple[int, float], ...] = ()  # (number, seconds after the start or the signal before)
    limit_s: float = LIMIT_S
    words: Path | None = None  # the folder for what it says; by default `folder`
    # What only a fork can be given.
    constants: dict[str, float] = field(default_factory=dict)  # of flows.settlement
    clock_seed: int | None = None  # the clock of the day jumps

    @property
    def says(self) -> tuple[Path, Path]:
        """What it writes to stdout and to stderr."""
        folder = self.words or self.folder
        return folder / "out.txt", folder / "err.txt"


@dataclass(frozen=True, slots=True)
class Ended:
    code: int  # below zero: the signal that ended it
    out: str
    err: str
    wall_s: float
    pid: int
    sent: int  # signals, before it ended
    rss_kib: int  # the most that it or a child of it took; 0 where that is not known
    timed_out: bool

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.timed_out

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err


Launch = Callable[[Start], Ended]


class Forge:
    """A fork server; one trial at a time."""

    def __init__(self, shim: Path) -> None:
        single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SERVER)],
            env=clean_environment() | single | {"LD_PRELOAD": str(shim)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self._read() == "ready"

    def __call__(self, start: Start) -> Ended:
        out, err = start.says
        asked = asdict(start) | {"out": str(out), "err": str(err)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked, default=str) + "\n")
        self._process.stdin.flush()
        end = json.loads(self._read())  # and only then are its words all there
        return Ended(out=_text(out), err=_text(err), **end)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


@dataclass(frozen=True, slots=True)
class Command:
    """The installed command, under the shim. It cannot be given what only a fork can."""

    shim: Path

    def __call__(self, start: Start) -> Ended:
        variables = clean_environment() | start.environment
        for name in start.without:
            variables.pop(name, None)
        if start.control is not None:
            variables |= {"LD_PRELOAD": str(self.shim), "GRISTMILL_SHIM": str(start.control)}
        assert not start.constants, "only a fork can be given other sizes"
        assert start.clock_seed is None, "only a fork can be given another clock"
        for arguments in start.calls:
            ended = self._one(start, arguments, variables)
            if ended.code:
                break
        return ended

    def _one(self, start: Start, arguments: list[str], variables: dict[str, str]) -> Ended:
        out, err = start.says
        began = time.monotonic()
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [COMMAND, *arguments], cwd=start.folder, env=variables, stdin=subprocess.DEVNULL,
                stdout=to_out, stderr=to_err, start_new_session=True,
                umask=-1 if start.umask is None else start.umask,
            )  # fmt: skip
        sent, timed_out = _see_to_its_end(process, start)
        wall_s = time.monotonic() - began
        return Ended(process.returncode, _text(out), _text(err), wall_s, process.pid, sent, 0, timed_out)


def _see_to_its_end(process: "subprocess.Popen[bytes]", start: Start) -> tuple[int, bool]:
    """Wait for the end; how many signals were sent before it, and whether it took too long and was killed."""
    for sent, (number, after_s) in enumerate(start.signals):
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            send = os.killpg if number == signal.SIGKILL else os.kill
            send(process.pid, number)
        else:
            return sent, False
    try:
        process.wait(start.limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return len(start.signals), True
    return len(start.signals), False


class Forges:
    """As many fork servers as there are trials at a time."""

    def __init__(self, shim: Path) -> None:
        self.shim = shim
        self._all = [Forge(shim) for _ in range(AT_A_TIME)]
        self._free: queue.Queue[Forge] = queue.Queue()
        for forge in self._all:
            self._free.put(forge)

    @contextmanager
    def one(self) -> Iterator[Forge]:
        forge = self._free.get()
        try:
            yield forge
        finally:
            self._free.put(forge)

    def launch(self, start: Start) -> Ended:
        with self.one() as forge:
            return forge(start)

    def close(self) -> None:
        for forge in self._all:
            forge.close()


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` on every item, so many at a time as there are cores; the results in the order of the items."""
    with ThreadPoolExecutor(AT_A_TIME) as workers:
        return list(workers.map(work, items))


def clean_environment() -> dict[str, str]:
    """Ours, without what would make a job another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "PREFECT_"))}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
