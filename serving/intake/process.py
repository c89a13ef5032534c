"""Admission, seen from our side: a child process that is given open files and may be broken by what is in them."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

from serving.intake.confine import MEMORY_BYTES, cpu_limit_s, environment
from serving.intake.files import BadInput
from serving.intake.order import Order
from serving.store.durable import DISK_FAILED, DiskFault

POLL_S = 0.1
SHOWN_OF_STDERR_BYTES = 4096


class AskedToStop(Exception):
    """The child was ended on request; nothing of its work counts."""


def admit_apart(order: Order, asked_to_stop: Callable[[], bool], say: Callable[[int], None]) -> int:
    """Run the order in a child; returns the number of rows once its manifest is in place. `say` is told of some.

    Raises:
        BadInput: the input is refused, or reading it broke a limit.
        AskedToStop: `asked_to_stop`, asked several times a second, said so.
        OSError: a part could not be written.
    """
    with tempfile.TemporaryFile() as stderr:
        child, told = _start(order, stderr)
        try:
            _hand_over(child, order)
            return _await(child, told, order, stderr, asked_to_stop, say)
        finally:
            kill_group(child)
            told.close()


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    """With its helpers, which nobody else would end at once."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.kill()
    child.wait()


def _start(order: Order, stderr: IO[bytes]) -> tuple["subprocess.Popen[bytes]", "_Lines"]:
    read_end, write_end = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.intake.child", str(write_end), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, env=environment(),
            pass_fds=[write_end, *(file.descriptor for file in order.files)], start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return child, _Lines(read_end)


def _hand_over(child: "subprocess.Popen[bytes]", order: Order) -> None:
    assert child.stdin is not None
    try:
        with child.stdin:
            child.stdin.write(order.to_json().encode())
    except BrokenPipeError:
        pass  # it is gone; why, its end will tell


def _await(
    child: "subprocess.Popen[bytes]",
    told: "_Lines",
    order: Order,
    stderr: IO[bytes],
    asked_to_stop: Callable[[], bool],
    say: Callable[[int], None],
) -> int:
    file = order.files[0].name
    for line in told:
        if line is None:
            if asked_to_stop():
                raise AskedToStop
        elif "rows" in line:
            say(line["rows"])
        elif "file" in line:
            file = line["file"]
        elif "done" in line:
            return int(line["done"])
        else:
            _raise(line)
    child.wait()
    return _raise_for_end(child.returncode, file, order, stderr)


def _raise(line: dict[str, Any]) -> NoReturn:
    if "refused" in line:
        raise BadInput(*line["refused"])
    if "disk" in line:
        number, what = line["disk"]
        fault = DiskFault(what)
        fault.errno = number
        raise fault
    if "failed" in line:
        number, why, path = line["failed"]
        raise OSError(number, why or "unknown error", path)
    raise RuntimeError(f"admission failed:\n{line['bug']}")


def _raise_for_end(code: int, file: str, order: Order, stderr: IO[bytes]) -> NoReturn:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - SHOWN_OF_STDERR_BYTES))
    said = stderr.read().decode(errors="replace").strip()
    if code == DISK_FAILED:
        raise DiskFault(said.removeprefix("gristmill: "))
    if code >= 0:
        raise RuntimeError(f"admission ended with {code}:\n{said}")
    if -code == signal.SIGXCPU:
        limit_s = cpu_limit_s(order.decoded_bytes_at_most)
        raise BadInput("E_LIMIT", f"{file}: reading it took over {limit_s} s of CPU time; split it into smaller files")
    what = f"reading it ended the process that reads, by {signal.Signals(-code).name}"
    way = f"it is damaged, or needs more than the {MEMORY_BYTES >> 20} MiB that admission may use; write it anew"
    raise BadInput("E_PARQUET" if file.lower().endswith(".parquet") else "E_LIMIT", f"{file}: {what}; {way}")


class _Lines:
    """What the child tells, line by line; None when it has told nothing for a while. Ends when the child does."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        rest = b""
        while True:
            if not self._selector.select(POLL_S):
                yield None
                continue
            block = os.read(self._descriptor, 2**16)
            if not block:
                return
            *lines, rest = (rest + block).split(b"\n")
            yield from (json.loads(line) for line in lines)
            yield None  # also while it tells much, whoever waits may want it to stop

    def close(self) -> None:
        self._selector.close()
        os.close(self._descriptor)
