"""A request body, field by field: what is in range comes through, what is not is refused with its code and range."""

import json
from typing import Any

import pytest

from serving.intake.bad_row import BadRow
from serving.intake.body import (
    INERT_FIELDS,
    MAX_CHOICES,
    MAX_LOGPROBS,
    NAMES,
    RANGES,
    read_body,
    read_endpoint,
)
from serving.intake.schema import MAX_SCHEMA_BYTES
from serving.records import Endpoint, Message, Sampling

CHAT, COMPLETION = Endpoint.CHAT, Endpoint.COMPLETION
DEFAULT = Sampling(max_tokens=7)
ASKED = {"messages": [{"role": "user", "content": "hi"}]}


def sampling(endpoint: Endpoint = CHAT, **fields: Any) -> Sampling:
    prompt = ASKED if endpoint is CHAT else {"prompt": "hi"}
    return read_body(endpoint, {**prompt, **fields}, DEFAULT)[1]


def messages(value: Any) -> tuple[Message, ...]:
    return read_body(CHAT, {"messages": value}, DEFAULT)[0]


def refusal(endpoint: Endpoint, body: Any) -> BadRow:
    with pytest.raises(BadRow) as refused:
        read_body(endpoint, body, DEFAULT)
    return refused.value


def assert_refused(code: str, reason: str, body: Any, endpoint: Endpoint = CHAT) -> None:
    fault = refusal(endpoint, body)
    assert fault.code == code
    assert reason in str(fault)


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}


@pytest.mark.parametrize(("name", "kind", "low", "high"), RANGES, ids=[line[0] for line in RANGES])
def test_both_ends_of_a_range_are_allowed(name: str, kind: str, low: float, high: float) -> None:
    assert [getattr(sampling(**{name: edge}), NAMES.get(name, name)) for edge in (low, high)] == [low, high]


@pytest.mark.parametrize(("name", "kind", "low", "high"), RANGES, ids=[line[0] for line in RANGES])
def test_a_number_beyond_its_range_is_refused(name: str, kind: str, low: float, high: float) -> None:
    step = 1 if kind == "integer" else 0.001
    for value in (low - step, high + step):
        assert_refused("E_PARAM", f"body.{name} is {value!r}; it must be a", {**ASKED, name: value})


@pytest.mark.parametrize(("name", "kind"), [line[:2] for line in RANGES], ids=[line[0] for line in RANGES])
@pytest.mark.parametrize("value", ["1", True, [1], float("nan")])
def test_what_is_not_a_number_is_refused(name: str, kind: str, value: Any) -> None:
    assert_refused("E_PARAM", f"body.{name} is {value!r}", {**ASKED, name: value})


@pytest.mark.parametrize("name", [line[0] for line in RANGES if line[1] == "integer"])
def test_a_fraction_is_no_integer(name: str) -> None:
    assert_refused("E_PARAM", "it must be an integer", {**ASKED, name: 1.5})


def test_a_whole_number_and_its_float_are_one_value() -> None:
    assert repr(sampling(temperature=1)) == repr(sampling(temperature=1.0))


def test_what_a_body_leaves_out_comes_from_the_job() -> None:
    assert sampling() == DEFAULT


@pytest.mark.parametrize(
    "name", [*(line[0] for line in RANGES), "stop", "response_format", "logprobs", *sorted(INERT_FIELDS)]
)
def test_null_is_the_same_as_leaving_a_field_out(name: str) -> None:
    assert sampling(**{name: None}) == DEFAULT


def test_n_is_capped_so_that_one_row_cannot_exhaust_an_engine() -> None:
    assert_refused("E_PARAM", f"body.n is 100; it must be an integer from 1 to {MAX_CHOICES}", {**ASKED, "n": 100})


@pytest.mark.parametrize("name", sorted(INERT_FIELDS))
def test_a_field_without_effect_here_is_let_through(name: str) -> None:
    assert sampling(**{name: "gpt-4"}) == DEFAULT


@pytest.mark.parametrize(("name", "nearest"), [("max_token", "max_tokens"), ("temprature", "temperature")])
def test_an_unknown_field_names_the_nearest(name: str, nearest: str) -> None:
    assert_refused("E_FIELD_FORBIDDEN", f"body.{name} is not known; did you mean {nearest}?", {**ASKED, name: 1})


@pytest.mark.parametrize("name", ["tools", "functions", "best_of", "logit_bias", "audio"])
def test_a_field_that_would_be_ignored_is_refused(name: str) -> None:
    assert_refused("E_FIELD_FORBIDDEN", f"body.{name} has no effect here; leave it out", {**ASKED, name: None})


def test_a_stream_is_refused() -> None:
    assert_refused("E_FIELD_FORBIDDEN", "stream is true; a batch has nobody to stream to", {**ASKED, "stream": True})


def test_a_stream_that_is_off_is_no_matter() -> None:
    assert sampling(stream=False) == DEFAULT


@pytest.mark.parametrize("body", [None, "hi", [ASKED], 3])
def test_a_body_is_an_object(body: Any) -> None:
    assert_refused("E_BODY", "it must be an object", body)


@pytest.mark.parametrize(("endpoint", "name"), [(CHAT, "messages"), (COMPLETION, "prompt")])
def test_a_body_without_its_prompt_names_the_field(endpoint: Endpoint, name: str) -> None:
    assert_refused("E_PROMPT", f"body.{name} is missing", {}, endpoint)


@pytest.mark.parametrize(("endpoint", "name"), [(CHAT, "prompt"), (COMPLETION, "messages")])
def test_the_prompt_field_of_the_other_endpoint_is_unknown(endpoint: Endpoint, name: str) -> None:
    assert_refused("E_FIELD_FORBIDDEN", f"body.{name} is not known", {name: "hi"}, endpoint)


@pytest.mark.parametrize(
    ("role", "read_as"), [("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant")]
)
def test_roles_are_read(role: str, read_as: str) -> None:
    assert messages([{"role": role, "content": "hi"}]) == (Message(read_as, "hi"),)


@pytest.mark.parametrize("role", ["tool", "function", "User", "", None, 3, ["user"]])
def test_other_roles_are_refused(role: Any) -> None:
    assert_refused("E_MESSAGES", "body.messages[0].role is", {"messages": [{"role": role, "content": "hi"}]})


@pytest.mark.parametrize("value", [[], "hi", None, {"role": "user", "content": "hi"}])
def test_messages_are_a_list_of_at_least_one(value: Any) -> None:
    assert_refused("E_MESSAGES", "it must be a list with at least one message", {"messages": value})


def test_a_message_is_an_object() -> None:
    assert_refused("E_MESSAGES", "body.messages[1] is 'hi'", {"messages": [*ASKED["messages"], "hi"]})


def test_an_unknown_field_of_a_message_is_named() -> None:
    turn = {"role": "assistant", "content": "hi", "tool_calls": []}
    assert_refused("E_MESSAGES", "body.messages[0].tool_calls is not known", {"messages": [turn]})


def test_parts_of_text_are_put_together() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert messages([{"role": "user", "content": parts}]) == (Message("user", "one two"),)


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, "hi", {"type": "text"}, None])
def test_a_part_that_is_not_text_is_refused(part: Any) -> None:
    turn = {"role": "user", "content": [part]}
    assert_refused("E_MESSAGES", "body.messages[0].content[0] is", {"messages": [turn]})


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_message_is_refused(content: str) -> None:
    assert_refused(
        "E_PROMPT", "body.messages[0].content is empty", {"messages": [{"role": "user", "content": content}]}
    )


@pytest.mark.parametrize("parts", [[], [{"type": "text", "text": " "}]])
def test_an_empty_message_in_parts_is_refused(parts: list[Any]) -> None:
    assert_refused("E_PROMPT", "content is empty", {"messages": [{"role": "user", "content": parts}]})


@pytest.mark.parametrize("content", [None, 3, {"text": "hi"}])
def test_content_is_text(content: Any) -> None:
    turn = {"role": "user", "content": content}
    assert_refused("E_MESSAGES", "it must be text", {"messages": [turn]})


@pytest.mark.parametrize("prompt", ["", " ", None, ["a", "b"], [1, 2]])
def test_a_bare_prompt_is_one_text(prompt: Any) -> None:
    assert_refused("E_PROMPT", "body.prompt is", {"prompt": prompt}, COMPLETION)


def test_a_bare_prompt_becomes_one_user_message() -> None:
    assert read_body(COMPLETION, {"prompt": "hi"}, DEFAULT)[0] == (Message("user", "hi"),)


@pytest.mark.parametrize(("value", "stops"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stops_are_one_text_or_several(value: Any, stops: tuple[str, ...]) -> None:
    assert sampling(stop=value).stop == stops


@pytest.mark.parametrize("value", ["", [""], [1], {"a": 1}, 3, True])
def test_a_stop_that_is_not_text_is_refused(value: Any) -> None:
    assert_refused("E_PARAM", "it must be text or a list of texts", {**ASKED, "stop": value})


def test_at_most_four_stops_are_allowed() -> None:
    assert_refused("E_PARAM", "body.stop has 5 texts; at most 4 are allowed", {**ASKED, "stop": list("abcde")})


@pytest.mark.parametrize(
    ("fields", "count"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5)],
)
def test_chat_logprobs_are_a_switch_and_a_number(fields: dict[str, Any], count: int | None) -> None:
    assert sampling(**fields).logprobs == count


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"logprobs": 5}, "in a chat request it is true or false"),
        ({"top_logprobs": 5}, "body.top_logprobs needs body.logprobs to be true"),
        ({"logprobs": False, "top_logprobs": 5}, "body.top_logprobs needs body.logprobs to be true"),
        ({"logprobs": True, "top_logprobs": MAX_LOGPROBS + 1}, f"an integer from 0 to {MAX_LOGPROBS}"),
    ],
)
def test_chat_logprobs_of_the_other_form_are_refused(fields: dict[str, Any], reason: str) -> None:
    assert_refused("E_PARAM", reason, {**ASKED, **fields})


@pytest.mark.parametrize("count", [0, 5, MAX_LOGPROBS])
def test_completion_logprobs_are_a_number(count: int) -> None:
    assert sampling(COMPLETION, logprobs=count).logprobs == count


@pytest.mark.parametrize("fields", [{"logprobs": True}, {"logprobs": MAX_LOGPROBS + 1}, {"top_logprobs": 2}])
def test_completion_logprobs_of_the_other_form_are_refused(fields: dict[str, Any]) -> None:
    assert_refused("E_PARAM", "logprobs", {"prompt": "hi", **fields}, COMPLETION)


def test_logprobs_do_not_come_from_the_job() -> None:
    assert read_body(CHAT, ASKED, Sampling(logprobs=3))[1].logprobs is None


@pytest.mark.parametrize(
    ("form", "kept"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        (schema({"type": "string", "maxLength": 3}), '{"maxLength":3,"type":"string"}'),
    ],
)
def test_a_response_format_is_kept_as_canonical_schema(form: Any, kept: str | None) -> None:
    assert sampling(response_format=form).json_schema == kept


def test_two_spellings_of_a_schema_are_one_value() -> None:
    one, other = schema({"type": "object", "minProperties": 1}), schema({"minProperties": 1, "type": "object"})
    assert sampling(response_format=one) == sampling(response_format=other)


@pytest.mark.parametrize(
    ("code", "form", "reason"),
    [
        ("E_PARAM", {"type": "grammar"}, "known types: text, json_object, json_schema"),
        ("E_PARAM", "json", "known types: text, json_object, json_schema"),
        ("E_SCHEMA_LIMIT", {"type": "json_schema"}, "json_schema.schema is missing"),
        ("E_SCHEMA_LIMIT", schema("x"), "json_schema.schema is missing"),
        ("E_SCHEMA_LIMIT", schema({"type": "strng"}), "the JSON schema is not valid"),
        ("E_SCHEMA_LIMIT", schema({"prefixItems": [{"$ref": "https://x.y/z"}]}), "refers to another document"),
        ("E_SCHEMA_LIMIT", schema({"$ref": "other.json#/a"}), "refers to another document"),
        ("E_SCHEMA_LIMIT", schema({"const": "x" * MAX_SCHEMA_BYTES}), f"at most {MAX_SCHEMA_BYTES}"),
    ],
)
def test_a_response_format_that_cannot_be_held_is_refused(code: str, form: Any, reason: str) -> None:
    assert_refused(code, reason, {**ASKED, "response_format": form})


def test_a_schema_may_refer_to_itself() -> None:
    inside = {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}
    assert json.loads(sampling(response_format=schema(inside)).json_schema or "") == inside


def test_data_named_ref_in_a_schema_is_no_reference() -> None:
    assert sampling(response_format=schema({"enum": [{"$ref": "plain data"}]})).json_schema


def test_a_message_shows_a_long_value_short_and_escaped() -> None:
    fault = refusal(CHAT, {**ASKED, "seed": "\x1b[31m" + "x" * 500})
    assert len(str(fault)) < 200
    assert "\x1b" not in str(fault)


@pytest.mark.parametrize(("url", "endpoint"), [(None, CHAT), (str(CHAT), CHAT), (str(COMPLETION), COMPLETION)])
def test_the_endpoint_is_the_url(url: str | None, endpoint: Endpoint) -> None:
    assert read_endpoint({} if url is None else {"url": url, "method": "POST"}) is endpoint


@pytest.mark.parametrize("url", ["/v1/embeddings", "/v1/chat/completions/", None, 3, ["x"]])
def test_an_unknown_url_lists_the_known_ones(url: Any) -> None:
    with pytest.raises(BadRow, match=r"known: /v1/chat/completions, /v1/completions") as refused:
        read_endpoint({"url": url})
    assert refused.value.code == "E_URL"


def test_only_post_is_known() -> None:
    with pytest.raises(BadRow, match="method 'GET'; only \"POST\" is known") as refused:
        read_endpoint({"method": "GET"})
    assert refused.value.code == "E_METHOD"
