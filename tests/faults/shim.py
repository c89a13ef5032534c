"""The fault injector's Python side: build shim.c, tell it what to do, ask it what it did."""

import ctypes
import mmap
import shutil
import subprocess
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Action(IntEnum):
    KILL = 1  # the whole process group, before the call is made
    FAIL = 2
    SHORT = 3  # half of a write
    LOSE = 4  # a write that says that it was done, and was not
    SLEEP = 5


class Kind(IntFlag):
    OPEN_READ = 1
    OPEN_WRITE = 2
    WRITE = 4
    SYNC = 8
    RENAME = 16
    REMOVE = 32
    MKDIR = 64
    TRUNCATE = 128
    LINK = 256


EVERY = Kind((1 << len(Kind)) - 1)
CHANGES = EVERY & ~Kind.OPEN_READ  # two kills between which only reads stand leave the same files


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to happen at one call below a folder; `at` counts from 1, and 0 only counts."""

    at: int = 0
    action: Action = Action.KILL
    error: int = 0  # errno, for FAIL
    kinds: Kind = EVERY  # which calls count
    lasting: bool = False  # every later call of these kinds fails as well, as on a full disk
    sleep_s: float = 0.0

    def before(self, at: int) -> "Fault":
        """The same at another call."""
        return replace(self, at=at)


COUNT = Fault()


class Control(ctypes.Structure):
    """What shim.c calls Control, byte for byte."""

    _fields_ = (
        ("calls", ctypes.c_uint64),
        ("at", ctypes.c_uint64),
        ("action", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("kinds", ctypes.c_uint32),
        ("lasting", ctypes.c_uint32),
        ("sleep_us", ctypes.c_uint32),
        ("fired", ctypes.c_uint32),
        ("fired_pid", ctypes.c_int32),
        ("many", ctypes.c_uint32),
        ("groups", ctypes.c_int32 * 32),
        ("fired_call", ctypes.c_char * 28),
        ("fired_path", ctypes.c_char * 512),
        ("root", ctypes.c_char * 512),
        ("log", ctypes.c_char * 512),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the log has it; `ordinal` is 0 where its kind does not count."""

    ordinal: int
    pid: int
    kind: Kind
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Armed:
    """A fault that waits below `root`, shared with every process of a run through `file`."""

    file: Path
    control: Control
    log: Path

    @property
    def calls(self) -> int:
        return int(self.control.calls)

    @property
    def at(self) -> int:
        return int(self.control.at)

    @property
    def fired(self) -> bool:
        return bool(self.control.fired)

    @property
    def call(self) -> str:
        """The name of the call that it fired at."""
        return bytes(self.control.fired_call).decode()

    @property
    def where(self) -> str:
        return f"{self.call} {bytes(self.control.fired_path).decode()}"

    def logged(self) -> list[Call]:
        return read_log(self.log)


def build(folder: Path) -> Path:
    """The shim as a library in `folder`."""
    library = folder / "shim.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    size = int(ctypes.CDLL(str(library)).shim_control_bytes())
    assert size == ctypes.sizeof(Control), "shim.c and shim.py differ in what a Control is"
    return library


def can_build() -> bool:
    return shutil.which("gcc") is not None


def arm(fault: Fault, root: Path, file: Path, log: bool = False) -> Armed:
    """Lay `fault` out in `file`, for calls below `root`, which need not exist yet."""
    log_file = file.with_suffix(".log")
    log_file.unlink(missing_ok=True)
    file.write_bytes(bytes(ctypes.sizeof(Control)))
    with file.open("r+b") as opened:
        shared = mmap.mmap(opened.fileno(), ctypes.sizeof(Control))  # lives as long as the Control
    control = Control.from_buffer(shared)
    control.root, control.log = str(root).encode(), str(log_file).encode() if log else b""
    control.action, control.error, control.kinds = fault.action, fault.error, fault.kinds
    control.lasting, control.sleep_us = fault.lasting, round(fault.sleep_s * 1e6)
    control.at = fault.at
    return Armed(file, control, log_file)


def read_log(log: Path) -> list[Call]:
    """The calls so far."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    fields = (line.split(" ", 4) for line in lines)
    return [Call(int(ordinal), int(pid), Kind(int(kind)), name, path) for ordinal, pid, kind, name, path in fields]
