"""A process that has imported what the command `gristmill` imports, and forks itself for each command it is asked for.

Importing takes more than half of a short command. A fork has its own memory, folder, environment and output, as a
process that was started has; what only a start can show (its imports, kills, its children) is tested without this.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("flows.answer", "flows.receipt", "flows.faults", "serving.intake.process", "serving.intake.child")
STARTS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    code: int  # negative: the signal that ended it
    out: str
    err: str
    cpu_s: float  # of it and all that it waited for
    most_mib: float  # of the largest of them; what a fork shares with the server counts


def forked(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], limit_s: float) -> Ended:
    """The command with these arguments, in that folder. Raises TimeoutError once it has taken longer."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        asked = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "limit_s": limit_s,
        }
        with _server().connection() as line:
            socket.send_fds(line, [json.dumps(asked).encode()], [out.fileno(), err.fileno()])
            line.shutdown(socket.SHUT_WR)
            answer = line.makefile("r").read()
        out.seek(0)
        err.seek(0)
        told = [file.read().decode("utf-8") for file in (out, err)]
    if not answer:
        raise TimeoutError(f"gristmill {' '.join(arguments)} took more than {limit_s} s and was killed: {told}")
    code, cpu_s, most_mib = json.loads(answer)
    return Ended(code, *told, cpu_s, most_mib)


class _Server:
    """Nobody's child, so that a test that looks for children, or kills them, does not meet it."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._place = Path(self._scratch.name) / "s"
        reads, self._held = os.pipe()  # it ends with us, when nobody holds this end any more
        subprocess.run([sys.executable, "-P", __file__, self._place], stdin=reads, check=True)
        os.close(reads)

    def connection(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        give_up = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                line.connect(str(self._place))
            except OSError:  # it is still importing
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
            else:
                return line


@cache
def _server() -> _Server:
    """Of this process."""
    return _Server()


def _serve(place: str) -> None:
    if os.fork():
        return
    server = os.getpid()
    if os.fork() == 0:
        sys.stdin.read()
        os.kill(server, signal.SIGKILL)
        return
    for package in PACKAGES:
        importlib.import_module(package)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    while True:
        line, _ = listener.accept()
        message, outputs, _, _ = socket.recv_fds(line, 1 << 20, 2)
        while more := line.recv(1 << 20):
            message += more
        asked = json.loads(message)
        if (child := os.fork()) == 0:
            listener.close()
            line.close()
            _become(asked, outputs)
            sys.exit(importlib.import_module("flows.cli").main())
        for output in outputs:
            os.close(output)
        line.sendall(_end_of(child, asked["limit_s"]).encode())
        line.close()


def _end_of(child: int, limit_s: float) -> str:
    """Nothing, where it took too long."""
    give_up = time.monotonic() + limit_s
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024])
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return ""
        time.sleep(0.002)


def _become(asked: dict[str, Any], outputs: list[int]) -> None:
    """A process that was started for this command, as far as it can tell."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for output, place in zip(outputs, (1, 2), strict=True):
        os.dup2(output, place)
        os.close(output)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["gristmill", *asked["arguments"]]


if __name__ == "__main__":
    _serve(sys.argv[1])
