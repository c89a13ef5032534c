"""Engines as copies of a process that has imported vLLM already: it waits, and forks one whenever one is asked for.

Importing vLLM is most of an engine's start on a CPU. So an engine that died, and that of the next lane, start in
the rest of it. The process that waits has loaded no model and touched no GPU.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

WORKER = Path(__file__).with_name("vllm_worker.py")
END_SEEN_S = 30.0
LONGEST_SCRATCH = 60  # characters: vLLM's sockets in it have 37 more, and the kernel takes 107


class ForkServer:
    """One such process; `whose` stands in its list of arguments, for those who look at a list of processes."""

    def __init__(self, python: str | None, environment: Mapping[str, str], whose: Path) -> None:
        self.environment = dict(environment)
        self._command = [python or sys.executable, "-P", str(WORKER)]
        self._whose = whose
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = ""  # a folder for what vLLM leaves lying about, such as sockets
        self.used = False

    def fork(self, order: Mapping[str, Any], descriptors: Sequence[int], log: int) -> "Forked":
        """An engine's process for this order; it has copies of `descriptors`, and `log` as its output."""
        self.start(log)
        self.used = True
        assert self._process is not None
        told, tells = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [tells, log, *descriptors])
        except BrokenPipeError:
            pass  # it has just ended, which reads like an engine that did
        finally:
            os.close(tells)
        return Forked(self, self._process, told)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, log: int) -> None:
        """Begin to import, unless it has begun; `log` is its output. Nothing waits for it."""
        if self.running:
            return
        self.close()
        self._scratch = mkdtemp(prefix="gristmill-")
        scratch = {"TMPDIR": self._scratch} if len(self._scratch) <= LONGEST_SCRATCH else {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(self._whose)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**self.environment, **scratch}, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """Its engines go with it."""
        if self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = ""


class Forked:
    """One engine's process, which the server tells us about: first its number, at last its exit code."""

    def __init__(self, server: ForkServer, process: "subprocess.Popen[bytes]", told: int) -> None:
        self._server = server
        self._process = process
        self._told = told
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int | None:
        """None until the server, which may still be importing, has forked it."""
        if self._pid is None:
            self._listen(0)
        return self._pid

    def end(self) -> None:
        """With all that it has started. What is not forked yet ends with the server."""
        pid = self.pid
        self._listen(0)
        if pid is None:
            self._server.close()
        elif self._code is None:
            for kill in (os.kill, os.killpg):  # it may lead no group yet, or be gone with the server
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            self.exit_code()
        os.close(self._told)

    def exit_code(self) -> int | None:
        """Of a process that has ended: minus the number of a signal; None where that cannot be found out."""
        give_up = time.monotonic() + END_SEEN_S
        while self._code is None and (left_s := give_up - time.monotonic()) > 0:
            if not self._listen(left_s):
                return self._process.wait(END_SEEN_S) if self._pid is None else None
        return self._code

    def _listen(self, wait_s: float) -> bool:
        """False once there is no more to be told."""
        if not select.select([self._told], [], [], wait_s)[0]:
            return True
        said = os.read(self._told, 2**10)
        for number in said.split():
            if self._pid is None:
                self._pid = int(number)
            else:
                self._code = int(number)
        return bool(said)


class ForkServers:
    """One for each interpreter and environment, for as long as the context lasts."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str | None, frozenset[tuple[str, str]]], ForkServer] = {}

    def of(self, python: str | None, environment: Mapping[str, str], whose: Path) -> ForkServer:
        """The one that there is for these, or a new one."""
        key = python, frozenset(environment.items())
        if key not in self._servers:
            self._servers[key] = ForkServer(python, environment, whose)
        return self._servers[key]

    @property
    def used(self) -> bool:
        """True if an engine has been forked already, so that the next need not wait for an import."""
        return any(server.used for server in self._servers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.close()
