"""HttpEngine against a server that keeps its promises, and one that does not."""

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count, islice
from typing import Any

import pytest

from serving.engines.http import BadKey, HttpEngine, ServerRefuses
from serving.records import Choice, Completion, Endpoint, EngineDied, Message, Request, Sampling, Usage
from tests.serving.engines.openai_stub import SAID, Asked, Fault, OpenAIStub, answer_to

KEY = "sk-a-secret-of-tests"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait before a retry is a quarter of a second; here it is 10 ms."""
    monkeypatch.setattr("serving.engines.openai_api.retries.FIRST_BACKOFF_S", 0.01)


def engine_for(base_url: str, **settings: Any) -> HttpEngine:
    """An engine that stops after ten seconds, so that one that hangs fails its test and not the whole session."""
    give_up = time.monotonic() + 10
    defaults: dict[str, Any] = {"api_key_env": None, "concurrency": 4, "timeout_s": 5.0, "max_retries": 3}
    defaults["stop"] = lambda: time.monotonic() > give_up
    return HttpEngine(base_url, "tiny", **{**defaults, **settings})


def requests(rows: int, sampling: Sampling = Sampling(), endpoint: Endpoint = Endpoint.CHAT) -> list[Request]:  # noqa: B008
    return [Request(row, f"id-{row}", endpoint, (Message("user", f"prompt {row}"),), sampling) for row in range(rows)]


def answers(engine: HttpEngine, asked: list[Request]) -> dict[int, Completion]:
    completions = list(engine.run(iter(asked)))
    by_row = {completion.row: completion for completion in completions}
    assert len(by_row) == len(completions), "a row came out twice"
    return by_row


def test_every_request_is_asked_once_and_answered_once() -> None:
    with OpenAIStub() as stub:
        found = answers(engine_for(stub.base_url), requests(40))
    assert sorted(found) == list(range(40))
    assert stub.attempts == {f"prompt {row}": 1 for row in range(40)}


def test_each_row_gets_the_answer_to_its_own_prompt() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.01 * (asked.number % 3)) as stub:
        found = answers(engine_for(stub.base_url), requests(12))
    assert {row: done.choices[0].text for row, done in found.items()} == {
        row: answer_to(f"prompt {row}") for row in range(12)
    }


def test_usage_is_what_the_server_counted() -> None:
    with OpenAIStub() as stub:
        found = answers(engine_for(stub.base_url), requests(1, Sampling(n=2)))
    # "prompt 0" has 2 words, "answer to prompt 0" has 4, twice; the stub says that 1 prompt token was cached.
    assert found[0].usage == Usage(prompt_tokens=2, completion_tokens=8, cached_tokens=1)


def test_a_completion_request_goes_to_the_completions_endpoint_as_a_bare_prompt() -> None:
    with OpenAIStub() as stub:
        found = answers(engine_for(stub.base_url), requests(1, endpoint=Endpoint.COMPLETION))
    assert [(asked.path, asked.body["prompt"]) for asked in stub.served] == [("/v1/completions", "prompt 0")]
    assert found[0].choices == (Choice("answer to prompt 0", "stop"),)


def test_never_more_than_concurrency_at_once() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.02) as stub:
        answers(engine_for(stub.base_url, concurrency=3), requests(18))
    assert stub.most_at_once == 3


def test_a_slow_request_does_not_hold_up_the_others() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.5 if asked.prompt == "prompt 0" else 0.0) as stub:
        order = [done.row for done in engine_for(stub.base_url).run(iter(requests(20)))]
    assert order[-1] == 0
    assert sorted(order) == list(range(20))


def test_five_percent_of_500s_and_a_slow_server_lose_nothing() -> None:
    def faulty(asked: Asked) -> Fault | None:
        return Fault.SERVER_ERROR if asked.number % 20 == 0 else None

    with OpenAIStub(faulty, takes_s=lambda asked: 0.005) as stub:
        found = answers(engine_for(stub.base_url, concurrency=8), requests(100))
    # 100 rows and every 20th reply a 500: 105 requests, of which 20, 40, 60, 80 and 100 fail.
    assert stub.faults == [Fault.SERVER_ERROR] * 5
    assert len(stub.served) == 105
    assert [row for row in range(100) if found[row].failure is not None] == []


def test_a_reset_connection_is_tried_again() -> None:
    with OpenAIStub(lambda asked: Fault.RESET if asked.number == 3 else None) as stub:
        found = answers(engine_for(stub.base_url), requests(6))
    assert stub.faults == [Fault.RESET]
    assert all(done.failure is None for done in found.values())
    assert len(found) == 6


def test_retry_after_of_a_429_is_waited_for() -> None:
    with OpenAIStub(lambda asked: Fault.TOO_MANY if asked.number == 1 else None, retry_after="0.4") as stub:
        found = answers(engine_for(stub.base_url), requests(1))
    first, second = stub.served
    assert first.fault is Fault.TOO_MANY
    assert second.at_s - first.at_s >= 0.4  # our own backoff would be 10 ms
    assert found[0].failure is None


def test_a_retry_after_that_is_a_date_is_waited_for() -> None:
    date = formatdate(time.time() + 2, usegmt=True)  # in whole seconds, as the stub's own Date is
    with OpenAIStub(lambda asked: Fault.TOO_MANY if asked.number == 1 else None, retry_after=date) as stub:
        found = answers(engine_for(stub.base_url), requests(1))
    first, second = stub.served
    assert 0.9 <= second.at_s - first.at_s < 4.0
    assert found[0].failure is None


def test_a_retry_after_that_says_nothing_is_left_to_our_own_backoff() -> None:
    with OpenAIStub(lambda asked: Fault.TOO_MANY if asked.number == 1 else None, retry_after="soon") as stub:
        began = time.monotonic()
        found = answers(engine_for(stub.base_url), requests(1))
    assert stub.faults == [Fault.TOO_MANY]
    assert time.monotonic() - began < 2.0
    assert found[0].failure is None


def test_a_retry_after_holds_back_every_row_and_not_only_the_one_that_got_it() -> None:
    """The first of 20 rows is told to wait 2 s. What was sent before that is answered; nothing is sent meanwhile."""

    def faulty(asked: Asked) -> Fault | None:
        return Fault.TOO_MANY if asked.number == 1 else None

    with OpenAIStub(faulty, takes_s=lambda asked: 0.1, retry_after="2") as stub:
        found = answers(engine_for(stub.base_url), requests(20))
    after_s = [asked.at_s - stub.served[0].at_s for asked in stub.served]
    assert [done.failure for done in found.values()] == [None] * 20
    assert [wait_s for wait_s in after_s if 0.8 < wait_s < 2.0] == []
    assert len([wait_s for wait_s in after_s if wait_s >= 2.0]) > 10


def test_a_server_that_takes_six_at_once_is_found_out_and_loses_nothing() -> None:
    """Allowed 64, with a fixed 64 at once nine of ten requests would be refused."""
    with OpenAIStub(lambda asked: Fault.OVERLOADED if asked.at_once > 6 else None, lambda asked: 0.04) as stub:
        found = answers(engine_for(stub.base_url, concurrency=64, max_retries=6), requests(300))
    assert [done.failure for done in found.values()] == [None] * 300
    assert stub.most_at_once > 6
    # From 3 to 7 at once takes some 25 answers, then at most a window of 7 meets the limit by one: about 1 in 25.
    assert len(stub.faults) < 60


def test_a_server_that_keeps_up_is_given_all_that_is_allowed() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.3) as stub:
        answers(engine_for(stub.base_url, concurrency=24), requests(120))
    assert max(asked.at_once for asked in stub.served[:4]) <= 4
    assert stub.most_at_once == 24


def test_retries_end_and_say_what_the_server_said() -> None:
    with OpenAIStub(lambda asked: Fault.SERVER_ERROR) as stub, pytest.raises(EngineDied, match="the stub broke down"):
        answers(engine_for(stub.base_url, max_retries=2), requests(1))
    assert stub.faults == [Fault.SERVER_ERROR] * 3  # the first try and two retries


def test_a_400_fails_its_row_alone_and_is_not_tried_again() -> None:
    with OpenAIStub(lambda asked: Fault.BAD_REQUEST if asked.prompt == "prompt 2" else None) as stub:
        found = answers(engine_for(stub.base_url), requests(5))
    failed = {row: done.failure for row, done in found.items() if done.failure is not None}
    assert stub.attempts["prompt 2"] == 1
    assert {row: (failure.code, failure.reason) for row, failure in failed.items()} == {
        2: ("E_HTTP_400", SAID[Fault.BAD_REQUEST])
    }


@pytest.mark.parametrize(
    "fault",
    [
        Fault.MALFORMED, Fault.SHORT, Fault.NO_USAGE, Fault.NULL_TEXT, Fault.NOT_AN_OBJECT, Fault.HALF_A_CHARACTER,
        Fault.ENDLESS_COUNT, Fault.TOO_DEEP,
    ],
    ids=lambda fault: fault.name,
)  # fmt: skip
def test_a_reply_that_is_not_of_the_promised_form_is_never_taken_for_an_answer(fault: Fault) -> None:
    with OpenAIStub(lambda asked: fault if asked.prompt == "prompt 1" else None) as stub:
        found = answers(engine_for(stub.base_url, max_retries=0), requests(3, Sampling(n=2)))
    assert fault in stub.faults
    assert {row: done.failure is None for row, done in found.items()} == {0: True, 1: False, 2: True}
    assert found[1].choices == ()
    assert found[1].failure is not None
    assert found[1].failure.code == "E_REPLY"


def test_a_server_that_is_not_there_ends_the_engine_and_fails_no_row() -> None:
    with OpenAIStub() as stub:
        gone = stub.base_url
    completions: list[Completion] = []
    with pytest.raises(EngineDied, match="cannot be reached"):
        completions.extend(engine_for(gone, max_retries=1).run(iter(requests(5))))
    assert completions == []


def test_a_server_that_dies_midway_fails_no_row() -> None:
    with OpenAIStub(lambda asked: Fault.RESET if asked.number > 5 else None) as stub:
        run = engine_for(stub.base_url, concurrency=1, max_retries=1).run(iter(requests(20)))
        completions = list(islice(run, 5))
        with pytest.raises(EngineDied):
            next(run)
    assert stub.faults == [Fault.RESET] * 2
    assert [done.row for done in completions] == [0, 1, 2, 3, 4]
    assert [done.failure for done in completions] == [None] * 5


def test_a_server_that_never_answers_fails_the_row_by_timeout() -> None:
    with OpenAIStub(takes_s=lambda asked: 5.0 if asked.prompt == "prompt 0" else 0.0) as stub:
        found = answers(engine_for(stub.base_url, timeout_s=0.6, max_retries=1), requests(3))
    assert stub.attempts["prompt 0"] == 2
    assert {row: done.failure.code for row, done in found.items() if done.failure} == {0: "E_TIMEOUT"}


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.UNKNOWN_MODEL], ids=lambda f: f.name)
def test_a_server_that_refuses_us_altogether_ends_the_engine_in_its_own_words(fault: Fault) -> None:
    with OpenAIStub(lambda asked: fault) as stub, pytest.raises(ServerRefuses) as refusal:
        list(engine_for(stub.base_url).run(iter(requests(5))))
    assert fault in stub.faults
    assert f"{int(fault)}: {SAID[fault]}" in str(refusal.value)


def test_the_key_is_read_from_the_named_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", KEY)
    with OpenAIStub() as stub:
        answers(engine_for(stub.base_url, api_key_env="STUB_KEY"), requests(2))
    assert [asked.authorization for asked in stub.served] == [f"Bearer {KEY}"] * 2


def test_without_a_named_variable_no_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIStub() as stub:
        answers(engine_for(stub.base_url), requests(1))
    assert [asked.authorization for asked in stub.served] == [None]


@pytest.mark.parametrize("value", [None, ""])
def test_a_key_that_is_not_set_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("STUB_KEY", value)
    with pytest.raises(BadKey, match="STUB_KEY"):
        engine_for("http://127.0.0.1:1/v1", api_key_env="STUB_KEY")


@pytest.mark.parametrize(
    "spoilt", [f"{KEY}\n", f"{KEY}\u00e9", f"{KEY} \r\nX-More: 1"], ids=["newline", "accent", "second header"]
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """A key read from a file often ends in a newline, and the errors of httpx print the whole header."""
    monkeypatch.setenv("STUB_KEY", spoilt)
    with OpenAIStub() as stub, pytest.raises(BadKey, match="STUB_KEY") as refusal:
        answers(engine_for(stub.base_url, api_key_env="STUB_KEY", max_retries=0), requests(1))
    assert KEY not in str(refusal.value)


# Of each field a value that is not its default, and what the body must then hold.
REACHES = {
    "max_tokens": (7, {"max_tokens": 7}),
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.9, {"top_p": 0.9}),
    "top_k": (5, {"top_k": 5}),
    "min_p": (0.1, {"min_p": 0.1}),
    "seed": (0, {"seed": 0}),
    "n": (3, {"n": 3}),
    "stop": (("END", "\n"), {"stop": ["END", "\n"]}),
    "presence_penalty": (0.5, {"presence_penalty": 0.5}),
    "frequency_penalty": (-0.5, {"frequency_penalty": -0.5}),
    "repetition_penalty": (1.1, {"repetition_penalty": 1.1}),
    "logprobs": (2, {"logprobs": True, "top_logprobs": 2}),
    "json_schema": (
        '{"type":"object"}',
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
            }
        },
    ),
}


@pytest.mark.parametrize("name", Sampling.__struct_fields__)
def test_each_sampling_field_of_a_row_reaches_the_server(name: str) -> None:
    value, expected = REACHES[name]
    with OpenAIStub() as stub:
        answers(engine_for(stub.base_url), requests(1, Sampling(**{name: value})))
    sent = stub.served[0].body
    assert {key: sent.get(key) for key in expected} == expected


def test_what_a_row_leaves_at_its_default_is_not_sent() -> None:
    with OpenAIStub() as stub:
        answers(engine_for(stub.base_url), requests(1))
    message = {"role": "user", "content": "prompt 0"}
    # max_tokens and temperature always go: servers differ in what they take for granted.
    assert stub.served[0].body == {"model": "tiny", "max_tokens": 256, "temperature": 0.0, "messages": [message]}


def test_logprobs_of_zero_ask_for_the_chosen_token_alone() -> None:
    with OpenAIStub() as stub:
        found = answers(engine_for(stub.base_url), requests(1, Sampling(logprobs=0)))
    assert stub.served[0].body["logprobs"] is True
    assert "top_logprobs" not in stub.served[0].body
    logprobs = found[0].choices[0].logprobs
    assert logprobs is not None
    assert [token["token"] for token in logprobs] == ["answer", "to", "prompt", "0"]


def test_logprobs_of_both_endpoints_come_out_in_one_form() -> None:
    with OpenAIStub() as stub:
        chat = answers(engine_for(stub.base_url), requests(1, Sampling(logprobs=1)))[0].choices[0].logprobs
        bare = answers(engine_for(stub.base_url), requests(1, Sampling(logprobs=1), Endpoint.COMPLETION))[0]
    assert chat is not None
    assert bare.choices[0].logprobs is not None
    assert chat[0]["top_logprobs"] == [{"token": "other", "logprob": -1.5}]
    assert bare.choices[0].logprobs[0] == {
        "token": "answer",
        "logprob": -0.5,
        "top_logprobs": [{"token": "answer", "logprob": -0.5}],
    }


def endless(pulled: list[int]) -> Iterator[Request]:
    for row in count():
        pulled.append(row)
        yield Request(row, f"id-{row}", Endpoint.CHAT, (Message("user", f"prompt {row}"),), Sampling())


def test_requests_are_pulled_only_as_answers_leave() -> None:
    pulled: list[int] = []
    with OpenAIStub() as stub:
        run = engine_for(stub.base_url, concurrency=4).run(endless(pulled))
        assert len(list(islice(run, 10))) == 10
        run.close()
    # 10 answers have left; at most 4 more are in flight.
    assert 10 <= len(pulled) <= 14


def test_a_stop_ends_an_endless_run() -> None:
    finished: list[Completion] = []
    with OpenAIStub() as stub:
        engine = engine_for(stub.base_url, stop=lambda: len(finished) >= 25)
        for done in engine.run(endless([])):
            finished.append(done)
    assert len(finished) == 25


def test_a_stop_is_heard_while_every_request_is_slow() -> None:
    began = time.monotonic()
    with OpenAIStub(takes_s=lambda asked: 3.0) as stub:
        engine = engine_for(stub.base_url, stop=lambda: time.monotonic() - began > 0.3)
        assert list(engine.run(iter(requests(8)))) == []
        assert time.monotonic() - began < 2.0
        assert len(stub.served) == 4


def test_an_error_text_that_is_not_json_is_kept_in_short() -> None:
    with OpenAIStub(lambda asked: Fault.BAD_REQUEST, error_text="x" * 1000) as stub:
        found = answers(engine_for(stub.base_url), requests(1))
    assert found[0].failure is not None
    assert found[0].failure.reason == "x" * 300


def test_the_body_is_what_the_stub_can_parse_for_any_text() -> None:
    """Quotes, newlines, NUL and astral characters arrive as they were."""
    text = 'a "quote"\n\x00 \U0001f600 \u202e </s>'
    request = Request(0, "id-0", Endpoint.CHAT, (Message("system", text), Message("user", text)), Sampling())
    with OpenAIStub() as stub:
        found = answers(engine_for(stub.base_url), [request])
    assert [turn["content"] for turn in stub.served[0].body["messages"]] == [text, text]
    assert found[0].choices[0].text == answer_to(text)
    assert json.loads(json.dumps(found[0].choices[0].text)) == answer_to(text)


def test_a_salt_goes_to_the_server_only_where_it_was_asked_for() -> None:
    with OpenAIStub() as stub:
        answers(engine_for(stub.base_url), requests(1))
        answers(engine_for(stub.base_url, cache_salt="ab12"), requests(1))
    assert [asked.body.get("cache_salt") for asked in stub.served] == [None, "ab12"]
