"""Stands between a job and its object store, and lets one request go wrong."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHANGES = {"PUT", "POST", "DELETE"}
PASSED_ALONG = {"connection", "transfer-encoding", "content-length"}  # are this proxy's own to say


class What(StrEnum):
    LOST = "lost"  # on its way there
    UNANSWERED = "unanswered"  # it was done, and nobody heard of it
    BUSY = "busy"
    REFUSED = "refused"  # and all that come after it
    KILLED_BEFORE = "killed-before"
    KILLED_AFTER = "killed-after"


@dataclass(slots=True)
class Fault:
    what: What
    at: int  # the ordinal of a request, from 1; of those that change the store, or of the others
    reads: bool = False


@dataclass(slots=True)
class Met:
    """What came by."""

    folder: Path  # of the job: who works in it is killed
    fault: Fault | None
    changes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    fired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, method: str, path: str) -> What | None:
        with self._lock:
            kind = self.changes if method in CHANGES else self.reads
            kind.append(f"{method} {path}")
            if self.fault is None or self.fault.reads is not (kind is self.reads):
                return None
            again = self.fault.what is What.REFUSED and self.fired
            if len(kind) != self.fault.at and not again:
                return None
            self.fired = True
            return self.fault.what

    def kill(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "cwd") == str(self.folder):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                pass  # it has ended, or is not ours


@contextmanager
def proxied(store_port: int, folder: Path, fault: Fault | None = None) -> Iterator[tuple[int, Met]]:
    """The port to use in place of the store's, and what has come by."""
    met = Met(folder, fault)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"met": met, "store_port": store_port}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_address[1], met
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    met: Met
    store_port: int

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        due = self.met.due(self.command, self.path)
        if due is What.KILLED_BEFORE:
            self.met.kill()
        if due in {What.KILLED_BEFORE, What.LOST}:
            self.close_connection = True
        elif due in {What.BUSY, What.REFUSED}:
            self._answer(503 if due is What.BUSY else 403, {}, b"")
        else:
            self._ask(body, due)

    def _ask(self, body: bytes, due: What | None) -> None:
        asked = HTTPConnection("127.0.0.1", self.store_port, timeout=30)
        try:
            asked.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                asked.putheader(name, value)
            asked.endheaders(body)
            answer = asked.getresponse()
            data = answer.read()
        except (OSError, HTTPException):
            self.close_connection = True
            return
        finally:
            asked.close()
        if due is What.KILLED_AFTER:
            self.met.kill()
        if due in {What.KILLED_AFTER, What.UNANSWERED}:
            self.close_connection = True
            return
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in PASSED_ALONG}
        self._answer(answer.status, {**headers, "Content-Length": length}, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        try:
            self.send_response_only(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # whoever asked is gone

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        pass
