"""A server that means harm: endless, slow, packed or quoting our key. And retries that it can tell apart."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.engines.http import HttpEngine, ServerRefuses
from serving.engines.openai_api.reply import MAX_REPLY_BYTES
from serving.records import Completion, Endpoint, EngineDied, Message, Request, Sampling

KEY = "sk-canary-1f6e9b"
GOOD = {
    "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
Reply = Callable[["Raw"], None]


class Raw(BaseHTTPRequestHandler):
    """One request, handed to the reply of the test."""

    protocol_version = "HTTP/1.1"
    reply: Reply
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(dict(self.headers))
        try:
            type(self).reply(self)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has had enough, as it should
        self.close_connection = True

    def do_GET(self) -> None:
        self.give(200, b"{}")

    def give(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], tuple[str, list[dict[str, str]]]]]:
    monkeypatch.setenv("HOSTILE_KEY", KEY)
    monkeypatch.setattr("serving.engines.openai_api.retries.FIRST_BACKOFF_S", 0.01)
    servers = []

    def start(reply: Reply) -> tuple[str, list[dict[str, str]]]:
        handler = type("Handler", (Raw,), {"reply": staticmethod(reply), "seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", handler.seen  # type: ignore[attr-defined]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(url: str, rows: int = 1, timeout_s: float = 5.0, max_retries: int = 2) -> list[Completion]:
    give_up = time.monotonic() + 20
    engine = HttpEngine(url, "m", "HOSTILE_KEY", 2, timeout_s, max_retries, stop=lambda: time.monotonic() > give_up)
    asked = (
        Request(row, f"id-{row}", Endpoint.CHAT, (Message("user", f"p {row}"),), Sampling()) for row in range(rows)
    )
    return list(engine.run(asked))


def test_an_endless_reply_is_left_at_the_limit(serve: Any) -> None:
    sent = [0]

    def endless(handler: Raw) -> None:
        handler.send_response(200)
        handler.end_headers()  # no length: it ends when the connection does
        block = b" " * 2**20
        while True:
            handler.wfile.write(block)
            sent[0] += len(block)

    url, _ = serve(endless)
    (done,) = ask(url, timeout_s=20.0)
    assert done.failure is not None
    assert (done.failure.code, done.failure.reason) == ("E_REPLY", f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    assert sent[0] < 2 * MAX_REPLY_BYTES


def test_a_reply_that_trickles_is_left_when_its_time_is_up(serve: Any) -> None:
    """Each byte comes in time; the whole never does."""

    def trickle(handler: Raw) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    url, _ = serve(trickle)
    began = time.monotonic()
    (done,) = ask(url, timeout_s=0.4, max_retries=0)
    assert time.monotonic() - began < 5.0
    assert done.failure is not None
    assert done.failure.code == "E_TIMEOUT"


def test_a_packed_reply_is_not_unpacked(serve: Any) -> None:
    """A thousand zeros take a byte in gzip, and far fewer in others."""
    url, seen = serve(lambda handler: handler.give(200, gzip.compress(bytes(10**6)), Content_Encoding="gzip"))
    (done,) = ask(url)
    assert done.failure is not None
    assert "packed (gzip)" in done.failure.reason
    assert seen[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(serve: Any, status: int) -> None:
    elsewhere, seen_elsewhere = serve(lambda handler: handler.give(200, json.dumps(GOOD).encode()))
    url, _ = serve(lambda handler: handler.give(status, b"", Location=f"{elsewhere}/chat/completions"))
    with pytest.raises(ServerRefuses):
        ask(url)
    assert seen_elsewhere == []


QUOTING = [
    json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}. Find your own."}}),
    f"Authorization: Bearer {KEY}",
    "x" * 290 + KEY,  # cut at 300 characters it would still show half
    json.dumps({"choices": [], "usage": {"prompt_tokens": KEY, "completion_tokens": 1}}),
    json.dumps({"choices": [{"message": {}}], KEY: 1}),
]


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
@pytest.mark.parametrize("content", QUOTING, ids=range(len(QUOTING)))
def test_a_server_that_quotes_our_key_does_not_spread_it(serve: Any, status: int, content: str) -> None:
    url, _ = serve(lambda handler: handler.give(status, content.encode()))
    try:
        said = repr(ask(url))
    except (ServerRefuses, EngineDied) as error:
        said = f"{error!r} {error.__cause__!r}"
    assert "sk-canary" not in said
    assert len(said) < 1000


def test_the_key_is_not_in_what_an_engine_shows_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_KEY", KEY)
    engine = HttpEngine("http://127.0.0.1:1/v1", "m", "HOSTILE_KEY", 1, 1.0, 0)
    assert KEY not in f"{engine!r} {engine}"


def test_a_retry_carries_the_key_of_the_first_try_and_each_row_its_own(serve: Any) -> None:
    tries: dict[str, int] = {}

    def every_second(handler: Raw) -> None:
        key = handler.headers["Idempotency-Key"]
        tries[key] = tries.get(key, 0) + 1
        handler.give(500 if tries[key] == 1 else 200, json.dumps(GOOD).encode())

    url, _ = serve(every_second)
    done = ask(url, rows=5)
    assert [completion.failure for completion in done] == [None] * 5
    assert sorted(tries.values()) == [2] * 5
    assert all(len(key) == 64 for key in tries)


def test_a_reply_lost_on_its_way_is_asked_for_again_under_the_same_key(serve: Any) -> None:
    """The server has answered and counted; the connection breaks before we hear of it."""
    answered: list[str] = []

    def lost_once(handler: Raw) -> None:
        answered.append(handler.headers["Idempotency-Key"])
        if len(answered) == 1:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"{")
        else:
            handler.give(200, json.dumps(GOOD).encode())

    url, _ = serve(lost_once)
    (done,) = ask(url)
    assert done.failure is None
    assert len(answered) == 2
    assert len(set(answered)) == 1


def test_a_row_has_the_same_key_in_every_process(serve: Any) -> None:
    """A run that is resumed asks again under the same keys."""
    url, seen = serve(lambda handler: handler.give(200, json.dumps(GOOD).encode()))
    ask(url, rows=3)
    ask(url, rows=3)
    keys = [headers["Idempotency-Key"] for headers in seen]
    assert len(set(keys)) == 3
    assert sorted(keys[:3]) == sorted(keys[3:])
