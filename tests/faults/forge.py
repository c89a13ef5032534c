"""A fork server, so that a trial takes a tenth of a second: everything is imported once, each trial is a fork of that.

A program of its own, and single-threaded, so that a fork is a whole process. It reads a start as a line of JSON and
answers with a line when the process has ended. tests/faults/process.py speaks to it.
"""

import ctypes
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

LOADED = (
    "flows.answer", "flows.cli", "flows.costs", "flows.faults", "flows.progress", "flows.settlement", "flows.status",
    "serving.config", "serving.intake.admit", "serving.intake.child", "serving.intake.process", "serving.intake.stage",
    "serving.engines.echo", "serving.engines.open", "serving.store.export", "serving.store.ledger",
    "serving.store.verify", "duckdb", "pyarrow.compute", "pyarrow.parquet", "tokenizers", "jinja2.sandbox",
)  # fmt: skip
CONTROL = ""  # the shim's, of this trial
YEAR_S = 365 * 86400.0
FORK_SAFE = {"jemalloc_bg_thd"}  # of pyarrow's allocator, which starts it again after a fork


def serve() -> None:
    # Where we were started in the background it is ignored, and a trial would miss one that comes before its _set_up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for line in sys.stdin:
        print(json.dumps(_one(json.loads(line))), flush=True)


def _one(start: dict[str, Any]) -> dict[str, Any]:
    """Fork one process and wait until it has ended, with a signal on the way if one is asked for."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(start)
    process = os.pidfd_open(pid)
    try:
        sent, timed_out = _wait(process, pid, start)
    finally:
        os.close(process)
    _, status, usage = os.wait4(pid, 0)
    _kill_group(pid)  # whatever it started and left behind
    code = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    end = {"code": code, "pid": pid, "sent": sent, "timed_out": timed_out}
    return {**end, "wall_s": wall_s, "rss_kib": usage.ru_maxrss}


def _wait(process: int, pid: int, start: dict[str, Any]) -> tuple[int, bool]:
    """Wait for the end; how many signals were sent before it, and whether it took too long and was killed."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    for sent, (number, after_s) in enumerate(start["signals"]):
        if waiting.poll(after_s * 1000):
            return sent, False
        os.kill(pid, number)
        if number == signal.SIGKILL:
            _kill_group(pid)
    sent = len(start["signals"])
    if waiting.poll(start["limit_s"] * 1000):
        return sent, False
    os.kill(pid, signal.SIGKILL)
    return sent, True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _child(start: dict[str, Any]) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a fresh interpreter has it
        os.setsid()
        os.chdir(start["folder"])
        for number, name in ((1, start["out"]), (2, start["err"])):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.environ.update(start["environment"])
        for name in start["without"]:
            os.environ.pop(name, None)
        if start["umask"] is not None:
            os.umask(start["umask"])
        _set_up(start)
        _arm(start["control"] or "")
        code = _call(start["calls"])
    except BaseException:  # noqa: BLE001 - what the interpreter itself would show
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call(calls: list[list[str]]) -> int:
    """The command once for each list of arguments, until one is not done."""
    from flows.cli import main

    code = 0
    for arguments in calls:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        if code:
            break
    return code


def _set_up(start: dict[str, Any]) -> None:
    """What a trial changes in the program: sizes, so that a small run has many steps, and the clock."""
    settlement = import_module("flows.settlement")
    for name, value in start["constants"].items():
        assert hasattr(settlement, name), f"flows.settlement has no {name} any more"
        setattr(settlement, name, value)
    import_module("serving.intake.process").subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=ForkedChild, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL
    )
    if start["clock_seed"] is not None:
        _let_jump(random.Random(start["clock_seed"]))


class ForkedChild:
    """Stands in for subprocess.Popen where the program starts a module of its own: a fork, since all is loaded."""

    def __init__(self, command: list[str], stderr: Any, env: dict[str, str], pass_fds: list[int], **_: Any) -> None:
        assert command[:3] == [sys.executable, "-P", "-m"], f"not a module of ours: {command}"
        for_child, to_child = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_module(command[3], command[4:], for_child, stderr.fileno(), env, set(pass_fds))
        os.close(for_child)
        self.stdin = os.fdopen(to_child, "wb")

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _be_module(
    name: str, arguments: list[str], stdin: int, stderr: int, env: dict[str, str], pass_fds: set[int]
) -> NoReturn:
    """What a fresh interpreter would do after an exec: a session of its own, and no file that was not given to it."""
    code = 1
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        for descriptor in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2} - pass_fds:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one that listed them
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        import_module("serving.store.bucket").unmount()  # a fresh interpreter knows of none
        _arm(CONTROL)
        sys.stdin = os.fdopen(0, "r", encoding="utf-8")
        sys.argv = [name, *arguments]
        import_module(name).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - what the interpreter itself would show
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _arm(control: str) -> None:
    global CONTROL
    CONTROL = control
    if control:
        os.environ["GRISTMILL_SHIM"] = control
        ctypes.CDLL(None).shim_arm(control.encode())


def _let_jump(moments: random.Random) -> None:
    """The clock of the day is a year off, now ahead, now behind, from one look to the next."""
    real = time.time
    time.time = lambda: real() + moments.choice((-YEAR_S, 0.0, YEAR_S))


if __name__ == "__main__":
    metadata.version = cache(metadata.version)  # reading some twenty packages' files takes a fifth of a trial
    for module in LOADED:
        try:
            import_module(module)
        except ImportError:
            pass  # a module that moved only makes trials slower
    threads = {file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")} - FORK_SAFE
    assert len(threads) == 1, f"a fork of a process with threads is not a whole process: {threads}"
    print("ready", flush=True)
    serve()
