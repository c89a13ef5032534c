"""Whose fault it is: a row that a healthy server cannot answer fails; a server that answers nothing keeps its rows."""

from collections.abc import Iterator

import httpx
import pytest

from serving.engines.http import HttpEngine
from serving.records import Completion, Endpoint, EngineDied, Message, Request, Sampling

REPLY = {
    "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


def request(row: int, text: str) -> Request:
    return Request(row, str(row), Endpoint.CHAT, (Message("user", text),), Sampling(max_tokens=4))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers 503 to whatever holds the word poison; the word outage is its last."""
    down: list[httpx.Request] = []

    def answer(sent: httpx.Request) -> httpx.Response:
        if down or b"outage" in sent.content:
            down.append(sent)
            return httpx.Response(503, text="no")
        return httpx.Response(503, text="no") if b"poison" in sent.content else httpx.Response(200, json=REPLY)

    monkeypatch.setattr("serving.engines.openai_api.retries.FIRST_BACKOFF_S", 0.05)
    real = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: real(transport=httpx.MockTransport(answer)))


def run(texts: list[str], concurrency: int = 2) -> Iterator[Completion]:
    engine = HttpEngine("http://127.0.0.1:9/v1", "m", None, concurrency, timeout_s=5, max_retries=2)
    return engine.run(iter([request(row, text) for row, text in enumerate(texts)]))


@pytest.mark.usefixtures("server")
def test_a_row_that_a_healthy_server_cannot_answer_fails_alone() -> None:
    done = {completion.row: completion for completion in run(["a", "poison", "b", "c", "d"])}

    assert [row for row, completion in done.items() if completion.failure] == [1]


@pytest.mark.usefixtures("server")
def test_even_the_only_row_left_fails_alone_while_the_server_is_up() -> None:
    assert [completion.failure is not None for completion in run(["poison"], concurrency=1)] == [True]


@pytest.mark.usefixtures("server")
def test_rows_that_met_an_outage_stay_pending_instead_of_failing() -> None:
    with pytest.raises(EngineDied, match="no other row answered"):
        list(run(["outage", "a"]))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("drain", "answered"), [(True, 4), (False, 1)])
def test_a_stop_waits_for_what_is_in_flight_only_where_it_is_paid_for(drain: bool, answered: int) -> None:
    engine = HttpEngine("http://127.0.0.1:9/v1", "m", None, 4, 5.0, 0, stop=lambda: True, drain=drain)
    found = list(engine.run(iter([request(row, "a") for row in range(9)])))

    assert len(found) == answered  # four were sent at once, then the stop was seen
