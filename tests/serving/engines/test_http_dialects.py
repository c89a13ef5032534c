"""Servers that speak OpenAI's API with an accent: what each is sent, what each is spared, how each is read."""

from typing import Any

import httpx
import pytest

from serving.engines.http import HttpEngine
from serving.engines.machine import CannotRun
from serving.engines.openai_api.dialects import DIALECTS
from serving.engines.openai_api.form import Unheeded, body_of, refusal
from serving.records import Choice, Completion, Endpoint, Message, Request, Sampling, Usage
from tests.serving.engines import dialect_replies
from tests.serving.engines.openai_stub import Asked, OpenAIStub

SCHEMA = '{"type":"object"}'
# Of each field a value that is not off. A seed of 7 is one to every server.
SET: dict[str, Any] = {
    "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 7, "n": 2, "stop": ("END",),
    "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "logprobs": 2, "json_schema": SCHEMA,
}  # fmt: skip
OPENAI_CHAT = {
    "model", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty",
    "frequency_penalty", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
OPENAI_COMPLETION = (OPENAI_CHAT | {"prompt"}) - {"messages", "top_logprobs", "response_format"}
OF_VLLM = {"top_k", "min_p", "repetition_penalty", "response_format", "cache_salt"}
# The fields that each server has at each endpoint and heeds, from the sources that dialects.py names.
HEEDS = {
    "vllm": (OPENAI_CHAT | OF_VLLM, OPENAI_COMPLETION | OF_VLLM),
    "sglang": (OPENAI_CHAT | OF_VLLM, OPENAI_COMPLETION | OF_VLLM),
    "tensorrt-llm": (OPENAI_CHAT | OF_VLLM, (OPENAI_COMPLETION | OF_VLLM) - {"cache_salt"}),
    "tgi": (
        OPENAI_CHAT - {"n", "presence_penalty"},
        {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "repetition_penalty", "frequency_penalty",
         "stop"},
    ),
    "llama.cpp": (
        (OPENAI_CHAT | {"top_k", "min_p", "repeat_penalty", "json_schema"}) - {"response_format"},
        OPENAI_COMPLETION | {"top_k", "min_p", "repeat_penalty", "json_schema"},
    ),
}  # fmt: skip
ENDPOINTS = [Endpoint.CHAT, Endpoint.COMPLETION]
KINDS = sorted(HEEDS)


def asked_for(endpoint: Endpoint = Endpoint.CHAT, **sampling: Any) -> Request:
    return Request(0, "id-0", endpoint, (Message("user", "prompt 0"),), Sampling(**sampling))


def ask(stub: OpenAIStub, server: str, request: Request) -> Completion:
    engine = HttpEngine(stub.base_url, "tiny", None, 4, 5.0, 0, dialect=DIALECTS[server])
    (done,) = engine.run(iter([request]))
    return done


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "completion"])
@pytest.mark.parametrize("name", Sampling.__struct_fields__)
@pytest.mark.parametrize("server", KINDS)
def test_a_field_reaches_a_server_that_heeds_it_or_fails_its_row(server: str, name: str, endpoint: Endpoint) -> None:
    """Never is anything sent that the server does not know: TensorRT-LLM would refuse it, the others ignore it."""
    heeded = HEEDS[server][ENDPOINTS.index(endpoint)]
    off, on = asked_for(endpoint), asked_for(endpoint, **{name: SET[name]})
    if name in DIALECTS[server].ignores.get(endpoint, ()):
        assert name not in heeded
        with pytest.raises(Unheeded, match=f"{server} would ignore {name}"):
            body_of(on, "tiny", DIALECTS[server])
    else:
        body = body_of(on, "tiny", DIALECTS[server])
        assert body.keys() <= heeded
        assert body != body_of(off, "tiny", DIALECTS[server])


@pytest.mark.parametrize("server", KINDS)
def test_a_server_whose_own_defaults_are_not_ours_is_told_what_is_off(server: str) -> None:
    """vLLM and SGLang sample as the model's generation_config.json says, llama.cpp keeps 40 tokens, unless told."""
    body = body_of(asked_for(temperature=1.0), "tiny", DIALECTS[server])
    off = {"top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    told = {
        "vllm": off | {"top_k": 0, "repetition_penalty": 1.0},
        "sglang": off | {"top_k": -1, "repetition_penalty": 1.0},
        "tensorrt-llm": off | {"top_k": 0, "repetition_penalty": 1.0},
        "llama.cpp": off | {"top_k": 0, "repeat_penalty": 1.0},
        "tgi": {},  # has no defaults of its own, and refuses a top_p of 1
    }
    always = {"model", "messages", "max_tokens", "temperature"}
    assert {name: value for name, value in body.items() if name not in always} == told[server]


def test_a_row_with_a_field_that_the_server_would_ignore_fails_alone_and_is_not_sent() -> None:
    with OpenAIStub(shape=dialect_replies.tgi) as stub:
        engine = HttpEngine(stub.base_url, "tiny", None, 4, 5.0, 0, dialect=DIALECTS["tgi"])
        rows = [Request(row, str(row), Endpoint.CHAT, (Message("user", f"p {row}"),), sampling)
                for row, sampling in enumerate([Sampling(), Sampling(top_k=5), Sampling()])]  # fmt: skip
        found = {done.row: done.failure for done in engine.run(iter(rows))}
    assert stub.attempts == {"p 0": 1, "p 2": 1}
    assert (found[0], found[2]) == (None, None)
    assert found[1] is not None
    assert (found[1].code, "top_k = 5" in found[1].reason) == ("E_PARAM", True)


@pytest.mark.parametrize(
    ("server", "seed"), [("llama.cpp", -1), ("llama.cpp", 2**32 - 1), ("llama.cpp", 2**40), ("tgi", -1)]
)
def test_a_seed_that_a_server_reads_as_another_is_not_sent(server: str, seed: int) -> None:
    with pytest.raises(Unheeded, match=f"not {seed}"):
        body_of(asked_for(seed=seed), "tiny", DIALECTS[server])


@pytest.mark.parametrize("server", ["tgi", "llama.cpp"])
def test_a_salt_for_a_server_that_keeps_no_salted_cache_is_refused(server: str) -> None:
    with pytest.raises(CannotRun, match=f"{server} ignores engine.cache_salt"):
        HttpEngine("http://127.0.0.1:1/v1", "m", None, 1, 1.0, 0, cache_salt="ab12", dialect=DIALECTS[server])


def test_a_schema_goes_in_the_form_of_each_server() -> None:
    bodies = {server: body_of(asked_for(json_schema=SCHEMA), "tiny", DIALECTS[server]) for server in KINDS}
    wrapped = {"name": "answer", "schema": {"type": "object"}}
    as_openai = {"type": "json_schema", "json_schema": {**wrapped, "strict": True}}
    assert [bodies[server]["response_format"] for server in ("vllm", "sglang", "tensorrt-llm")] == [as_openai] * 3
    assert bodies["tgi"]["response_format"] == {"type": "json_schema", "value": wrapped}
    assert bodies["llama.cpp"]["json_schema"] == {"type": "object"}


# "prompt 0" has 2 words, "answer to prompt 0" has 4; the stub says that 1 prompt token was cached.
@pytest.mark.parametrize(
    ("server", "shape", "cached_tokens"),
    [
        ("tgi", dialect_replies.tgi, 0),
        ("sglang", dialect_replies.sglang, 0),
        ("sglang", dialect_replies.sglang_with_cache_report, 1),
        ("tensorrt-llm", dialect_replies.tensorrt_llm, 1),
        ("llama.cpp", dialect_replies.llama_cpp, 1),
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "completion"])
def test_each_servers_reply_is_read(server: str, shape: Any, cached_tokens: int, endpoint: Endpoint) -> None:
    with OpenAIStub(shape=shape) as stub:
        done = ask(stub, server, asked_for(endpoint))
    assert done == Completion(0, (Choice("answer to prompt 0", "stop"),), Usage(2, 4, cached_tokens))


def test_a_stop_string_is_a_stop_at_tgi_too() -> None:
    with OpenAIStub(shape=dialect_replies.tgi) as stub:
        assert ask(stub, "tgi", asked_for(stop=("END",))).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "completion"])
@pytest.mark.parametrize(("count", "alternatives"), [(0, 0), (1, 1)])
def test_llama_cpps_log_probabilities_are_read_at_both_endpoints(
    endpoint: Endpoint, count: int, alternatives: int
) -> None:
    with OpenAIStub(shape=dialect_replies.llama_cpp) as stub:
        logprobs = ask(stub, "llama.cpp", asked_for(endpoint, logprobs=count)).choices[0].logprobs
    assert logprobs is not None
    assert [token["token"] for token in logprobs] == ["answer", "to", "prompt", "0"]
    assert {len(token["top_logprobs"]) for token in logprobs} == {alternatives}


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_server_gave_up_on_is_none(reason: str) -> None:
    def gave_up(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
        return reply | {"choices": [choice | {"finish_reason": reason} for choice in reply["choices"]]}

    with OpenAIStub(shape=gave_up) as stub:
        done = ask(stub, "sglang", asked_for())
    assert done.choices == ()
    assert done.failure is not None
    assert (done.failure.code, done.usage) == ("E_REPLY", Usage(2, 4, 1))  # it was computed, and is billed


@pytest.mark.parametrize(
    ("server", "status", "content", "said"),
    [
        ("openai", 400, {"error": {"message": "no such field", "type": "x", "code": None}}, "no such field"),
        ("tgi", 422, {"error": "Input validation error", "error_type": "validation"}, "Input validation error"),
        ("sglang", 400, {"object": "error", "message": "too long", "type": "BadRequest", "code": 400}, "too long"),
        ("tensorrt-llm", 400, {"object": "error", "message": "Extra inputs", "type": "x", "code": 400}, "Extra inputs"),
        ("llama.cpp", 400, {"error": {"code": 400, "message": "exceeds", "type": "context_size"}}, "exceeds"),
    ],
)  # fmt: skip
def test_a_refusal_is_kept_in_the_servers_own_words(
    server: str, status: int, content: dict[str, Any], said: str
) -> None:
    with OpenAIStub(refuses=lambda asked: (status, content)) as stub:
        failure = ask(stub, server, asked_for()).failure
    assert failure is not None
    assert (failure.code, failure.reason) == (f"E_HTTP_{status}", said)


@pytest.mark.parametrize("content", [b"[1]", b'{"error": {"no": "message"}}', b'{"error": 5}', b"{}", b"[" * 10**5])
def test_a_refusal_in_no_known_form_is_kept_as_it_is(content: bytes) -> None:
    assert refusal(httpx.Response(400, content=content)).reason == content.decode()
