"""A small OpenAI-compatible server for tests: deterministic answers, faults on request, a record of what it served."""

import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing sends a reset


class Fault(StrEnum):
    """What a reply can have wrong with it."""

    SERVER_ERROR = "500"
    TOO_MANY = "429"
    OVERLOADED = "503"
    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    UNKNOWN_MODEL = "404"
    MALFORMED = "malformed JSON"
    SHORT = "one choice too few"
    NO_USAGE = "no usage"
    NULL_TEXT = "null for a text"
    NOT_AN_OBJECT = "a list for a reply"
    HALF_A_CHARACTER = "a lone surrogate in the text"
    ENDLESS_COUNT = "a token count beyond 64 bits"
    TOO_DEEP = "JSON nested beyond any parser's depth"
    RESET = "connection reset"


SAID = {
    Fault.SERVER_ERROR: "the stub broke down",
    Fault.TOO_MANY: "the stub is busy",
    Fault.OVERLOADED: "the stub is overloaded",
    Fault.BAD_REQUEST: "the stub will not answer that",
    Fault.UNAUTHORIZED: "the stub does not know this key",
    Fault.UNKNOWN_MODEL: "the stub has no such model",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the stub saw it, with the fault that its reply had."""

    number: int  # 1 for the stub's first request
    attempt: int  # 1 for the first request with this prompt
    path: str
    body: dict[str, Any]
    authorization: str | None
    at_s: float
    at_once: int  # how many requests the stub is at, with this one
    fault: Fault | None = None

    @property
    def prompt(self) -> str:
        """The last message, or the bare prompt."""
        return str(self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"])


def answer_to(prompt: str) -> str:
    return f"answer to {prompt}"


@dataclass(frozen=True, slots=True)
class Left:
    """A client that closed its connection before it had its answer."""

    prompt: str
    at_s: float


class OpenAIStub:
    """A context manager. `faulty` says which request gets which fault, `takes_s` how long each takes to answer.

    `shape` makes of a reply what another kind of server would say; `refuses` says what it would say to a body instead.
    """

    def __init__(
        self,
        faulty: Callable[[Asked], Fault | None] = lambda asked: None,
        takes_s: Callable[[Asked], float] = lambda asked: 0.0,
        retry_after: str | None = None,
        error_text: str | None = None,
        shape: Callable[[dict[str, Any], Asked], dict[str, Any]] = lambda reply, asked: reply,
        refuses: Callable[[Asked], tuple[int, dict[str, Any]] | None] = lambda asked: None,
    ) -> None:
        self.served: list[Asked] = []
        self.left: list[Left] = []
        self.most_at_once = 0
        self.faulty = faulty
        self._takes_s = takes_s
        self._retry_after = retry_after
        self._error_text = error_text
        self._shape = shape
        self._refuses = refuses
        self._at_once = 0
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def attempts(self) -> dict[str, int]:
        """By prompt, how often it was asked."""
        return dict(self._attempts)

    @property
    def faults(self) -> list[Fault]:
        """The faults that were served, in order."""
        return [asked.fault for asked in self.served if asked.fault is not None]

    def reply_to(
        self, connection: socket.socket, path: str, body: dict[str, Any], authorization: str | None
    ) -> tuple[Fault | None, int, bytes] | None:
        """None if the client left while it was being answered."""
        asked = self._begin(path, body, authorization)
        left = _leaves(connection, self._takes_s(asked))
        with self._lock:
            self._at_once -= 1
            if left:
                self.left.append(Left(asked.prompt, time.monotonic()))
        if left:
            return None
        if asked.fault in SAID:
            return asked.fault, int(asked.fault), _error(self._error_text or SAID[asked.fault])
        if (refusal := self._refuses(asked)) is not None:
            return asked.fault, refusal[0], json.dumps(refusal[1]).encode()
        return asked.fault, 200, _reply(asked, self._shape)

    def error_headers(self) -> dict[str, str]:
        return {} if self._retry_after is None else {"Retry-After": self._retry_after}

    def _begin(self, path: str, body: dict[str, Any], authorization: str | None) -> Asked:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            now_s = time.monotonic()
            asked = Asked(len(self.served) + 1, 1, path, body, authorization, now_s, self._at_once)
            self._attempts[asked.prompt] += 1
            asked = replace(asked, attempt=self._attempts[asked.prompt])
            asked = replace(asked, fault=self.faulty(asked))
            self.served.append(asked)
        return asked


def _leaves(connection: socket.socket, within_s: float) -> bool:
    """Wait so long; True as soon as the other side has closed."""
    readable, _, _ = select.select([connection], [], [], within_s)
    if not readable:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, stub: OpenAIStub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or Nagle's algorithm holds the second for 40 ms
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path not in ("/v1/chat/completions", "/v1/completions"):
            self._send(404, _error(f"the stub has no {self.path}"))
            return
        said = self.server.stub.reply_to(self.connection, self.path, body, self.headers["Authorization"])
        if said is None:
            self.close_connection = True
            return
        fault, status, reply = said
        if fault is Fault.RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            self.connection.close()
            self.close_connection = True
        else:
            self._send(status, reply)

    def _send(self, status: int, reply: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        for name, value in self.server.stub.error_headers().items() if status != 200 else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def _error(said: str) -> bytes:
    return json.dumps({"error": {"message": said, "type": "stub", "code": None}}).encode()


def _reply(asked: Asked, shape: Callable[[dict[str, Any], Asked], dict[str, Any]]) -> bytes:
    if asked.fault is Fault.MALFORMED:
        return b'{"choices": [{"message": {"content": "half an ans'
    if asked.fault is Fault.NOT_AN_OBJECT:
        return b'["this is not a reply"]'
    if asked.fault is Fault.TOO_DEEP:
        return b"[" * 100_000
    n = int(asked.body.get("n", 1)) - (asked.fault is Fault.SHORT)
    text = None if asked.fault is Fault.NULL_TEXT else answer_to(asked.prompt)
    if asked.fault is Fault.HALF_A_CHARACTER:
        text = "cut in two: \ud83d"
    reply: dict[str, Any] = {
        "id": f"stub-{asked.number}",
        "choices": [_choice(asked, place, text) for place in range(n)],
    }
    if asked.fault is not Fault.NO_USAGE:
        reply["usage"] = _usage(asked, n)
    if asked.fault is Fault.ENDLESS_COUNT:
        reply["usage"]["prompt_tokens"] = 10**30
    return json.dumps(shape(reply, asked)).encode()


def _usage(asked: Asked, n: int) -> dict[str, Any]:
    """A word is a token."""
    texts = [turn["content"] for turn in asked.body["messages"]] if "messages" in asked.body else [asked.prompt]
    prompt_tokens = sum(len(text.split()) for text in texts)
    completion_tokens = n * len(answer_to(asked.prompt).split())
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {**counts, "total_tokens": prompt_tokens + completion_tokens, "prompt_tokens_details": {"cached_tokens": 1}}


def _choice(asked: Asked, place: int, text: str | None) -> dict[str, Any]:
    common = {"index": place, "finish_reason": "stop"}
    wanted = asked.body.get("logprobs")
    words = [] if text is None else text.split()
    if "messages" not in asked.body:
        flat = {
            "tokens": words,
            "token_logprobs": [-0.5] * len(words),
            "top_logprobs": [{word: -0.5} for word in words],
        }
        return {**common, "text": text, "logprobs": None if wanted is None else flat}
    top = [{"token": "other", "logprob": -1.5}] * int(asked.body.get("top_logprobs", 0))
    tokens = [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": top} for word in words]
    message = {"role": "assistant", "content": text}
    return {**common, "message": message, "logprobs": {"content": tokens} if wanted else None}
