"""HttpEngine against real servers: what it brings back is what the server says when it is asked directly."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from serving.engines.http import HttpEngine
from serving.engines.openai_api.dialects import DIALECTS
from serving.records import Completion, Endpoint, Message, Request, Sampling, canonical_json
from tests.serving.engines.real_servers import GGUF, LLAMA, MODEL, RealServer, llama_server, vllm_serve

pytestmark = pytest.mark.real

KINDS = [
    pytest.param(vllm_serve, id="vllm", marks=pytest.mark.skipif(not MODEL.exists(), reason="`make setup` builds it")),
    pytest.param(
        llama_server,
        id="llama.cpp",
        marks=pytest.mark.skipif(
            not (GGUF.exists() and (LLAMA / "xllamacpp").exists()), reason="`make test-real` installs it"
        ),
    ),
]
PROMPTS = ["The capital of France is", "Water boils at", "1, 2, 3, 4,", "The opposite of hot is", "A cat is a small"]
COLOUR = canonical_json(
    {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
)
LONG = "The quick brown fox jumps over the lazy dog and then it does so again. " * 6


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with request.param(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def a_request(row: int, prompt: str, endpoint: Endpoint = Endpoint.COMPLETION, **sampling: Any) -> Request:
    return Request(row, str(row), endpoint, (Message("user", prompt),), Sampling(**{"max_tokens": 8, **sampling}))


def through_engine(server: RealServer, requests: list[Request], concurrency: int = 1, **more: Any) -> list[Completion]:
    engine = HttpEngine(
        server.base_url, server.model, None, concurrency, 120.0, 1, dialect=DIALECTS[server.kind], **more
    )
    return sorted(engine.run(iter(requests)), key=lambda done: done.row)


def directly(server: RealServer, endpoint: Endpoint, prompt: str, **fields: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": prompt}]} if endpoint is Endpoint.CHAT else {"prompt": prompt}
    body = {"model": server.model, "max_tokens": 8, "temperature": 0.0, **asked, **fields}
    reply = httpx.post(server.base_url + endpoint.removeprefix("/v1"), json=body, timeout=120.0)
    return dict(reply.raise_for_status().json())


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION], ids=["chat", "completion"])
def test_greedy_answers_and_their_tokens_are_the_servers(server: RealServer, endpoint: Endpoint) -> None:
    found = through_engine(server, [a_request(row, prompt, endpoint) for row, prompt in enumerate(PROMPTS)])
    said = [directly(server, endpoint, prompt) for prompt in PROMPTS]
    assert [done.failure for done in found] == [None] * len(PROMPTS)
    assert [done.choices[0].text for done in found] == [text_of(reply["choices"][0]) for reply in said]
    assert [done.choices[0].finish_reason for done in found] == [reply["choices"][0]["finish_reason"] for reply in said]
    counted = [(reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) for reply in said]
    assert [(done.usage.prompt_tokens, done.usage.completion_tokens) for done in found] == counted


def test_many_at_once_are_all_answered(server: RealServer) -> None:
    rows = [a_request(row, PROMPTS[row % 5], max_tokens=4) for row in range(24)]
    found = through_engine(server, rows, concurrency=8)
    assert [done.row for done in found] == list(range(24))
    assert [done.failure for done in found] == [None] * 24


def test_cached_tokens_are_those_that_the_server_tells_of(server: RealServer) -> None:
    first, again = (through_engine(server, [a_request(0, LONG)])[0].usage for _ in range(2))
    told = directly(server, Endpoint.COMPLETION, LONG)["usage"]
    assert first.cached_tokens < again.cached_tokens == told["prompt_tokens_details"]["cached_tokens"]
    assert 32 <= again.cached_tokens < again.prompt_tokens == told["prompt_tokens"]


def test_a_row_that_the_server_refuses_fails_alone_in_the_servers_words(server: RealServer) -> None:
    found = through_engine(server, [a_request(0, PROMPTS[0]), a_request(1, "word " * 900), a_request(2, PROMPTS[1])], 2)
    assert (found[0].failure, found[2].failure) == (None, None)
    assert found[1].failure is not None
    assert found[1].failure.code == "E_HTTP_400"
    assert "context" in found[1].failure.reason
    assert not found[1].failure.reason.startswith("{")


def test_two_choices_are_the_two_that_the_server_draws(server: RealServer) -> None:
    (done,) = through_engine(server, [a_request(0, PROMPTS[0], n=2, temperature=1.0, seed=7)])
    # Said directly in full: the server's own defaults would cut what can be drawn.
    off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    said = directly(server, Endpoint.COMPLETION, PROMPTS[0], n=2, temperature=1.0, seed=7, **off)
    assert sorted(choice.text for choice in done.choices) == sorted(text_of(choice) for choice in said["choices"])
    assert len(done.choices) == 2
    assert done.usage.completion_tokens == said["usage"]["completion_tokens"]


def test_a_stop_string_ends_the_answer_before_it(server: RealServer) -> None:
    whole = text_of(directly(server, Endpoint.COMPLETION, PROMPTS[2], max_tokens=16)["choices"][0])
    stop = whole.split()[3]
    (done,) = through_engine(server, [a_request(0, PROMPTS[2], max_tokens=16, stop=(stop,))])
    assert done.choices[0].text == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION], ids=["chat", "completion"])
def test_an_answer_satisfies_its_json_schema(server: RealServer, endpoint: Endpoint) -> None:
    row = a_request(0, "Which colour is the sky? JSON:", endpoint, max_tokens=48, json_schema=COLOUR)
    (done,) = through_engine(server, [row])
    assert done.failure is None
    assert json.loads(done.choices[0].text)["colour"] in {"red", "blue"}


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION], ids=["chat", "completion"])
@pytest.mark.parametrize("count", [0, 2])
def test_log_probabilities_are_the_servers_token_by_token(server: RealServer, endpoint: Endpoint, count: int) -> None:
    (done,) = through_engine(server, [a_request(0, PROMPTS[0], endpoint, logprobs=count)])
    fields = {"logprobs": True, "top_logprobs": 2} if endpoint is Endpoint.CHAT else {"logprobs": 2}
    said = directly(server, endpoint, PROMPTS[0], **fields)["choices"][0]["logprobs"]
    told = said["token_logprobs"] if "token_logprobs" in said else [token["logprob"] for token in said["content"]]
    logprobs = done.choices[0].logprobs
    assert logprobs is not None
    assert "".join(token["token"] for token in logprobs) == done.choices[0].text
    assert [token["logprob"] for token in logprobs] == pytest.approx(told, abs=1e-3)
    assert all(len(token["top_logprobs"]) >= 2 for token in logprobs) or count == 0


def test_a_stopped_run_makes_the_server_stop_computing(server: RealServer) -> None:
    """Each counts on to 450 tokens, which takes far longer."""
    if server.kind == "llama.cpp":
        pytest.skip("it computes an answer to its end, whoever has left")
    rows = [a_request(row, f"{row + 1}, {row + 2}, {row + 3}, {row + 4},", max_tokens=450) for row in range(3)]
    found = through_engine(server, rows, concurrency=3, stop=lambda: server.at_work() >= 2)
    assert found == []
    assert within(10.0, lambda: server.at_work() == 0)


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + seconds
    while not (seen := happened()) and time.monotonic() < give_up:
        time.sleep(0.05)
    return seen
