"""A row's fields as an OpenAI request: endpoint, messages, sampling, each checked. An allow-list, not a filter."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, cast

from msgspec import structs

from serving.intake.bad_row import BadRow
from serving.intake.fields import IGNORED_FIELDS, nearest
from serving.intake.schema import checked_schema
from serving.intake.shown import escaped, shown
from serving.records import Endpoint, Message, Sampling, canonical_json

Kind = Literal["integer", "number", "boolean"]
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_CHOICES = 8  # a larger n is how CVE-2026-34756 exhausts an engine's memory
MAX_LOGPROBS = 20
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1_024
MAX_OUTPUT_TOKENS = 131_072

SAMPLING_FIELDS = {
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
INERT_FIELDS = {"model", "user", "metadata", "store"}  # accepted and without effect here: the job chooses the model
ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}
PROMPT_FIELDS = {Endpoint.CHAT: "messages", Endpoint.COMPLETION: "prompt"}
KNOWN_FIELDS = {
    endpoint: frozenset(SAMPLING_FIELDS | INERT_FIELDS | {name, "stream"}) for endpoint, name in PROMPT_FIELDS.items()
}


def read_endpoint(row: Mapping[str, Any]) -> Endpoint:
    url = row.get("url", "/v1/chat/completions")
    if row.get("method", "POST") != "POST":
        raise BadRow("E_METHOD", f'method {shown(row["method"])}; only "POST" is known')
    endpoint = ENDPOINTS.get(url) if isinstance(url, str) else None
    if endpoint is None:
        raise BadRow("E_URL", f"url {shown(url)}; known: {', '.join(Endpoint)}")
    return endpoint


def read_body(endpoint: Endpoint, body: Any, default: Sampling) -> tuple[tuple[Message, ...], Sampling]:
    """The messages and the sampling of one request body; what the body leaves out comes from `default`.

    Raises:
        BadRow: an unknown field, a wrong type, or a value out of range.
    """
    if not isinstance(body, dict):
        raise BadRow("E_BODY", f"body is {shown(body)}; it must be an object")
    if body.get("stream"):
        raise BadRow("E_FIELD_FORBIDDEN", "stream is true; a batch has nobody to stream to, leave it out")
    prompt_field = PROMPT_FIELDS[endpoint]
    known = KNOWN_FIELDS[endpoint]
    for name in body:
        if name not in known:
            reason = f"body.{escaped(name)} {'has no effect here' if name in IGNORED_FIELDS else 'is not known'}"
            raise BadRow("E_FIELD_FORBIDDEN", f"{reason}{_way_out(name, known)}")
    if prompt_field not in body:
        raise BadRow("E_PROMPT", f"body.{prompt_field} is missing; write what is to be answered there")
    messages = _messages(body["messages"]) if endpoint is Endpoint.CHAT else _bare_prompt(body["prompt"])
    return messages, read_sampling(endpoint, body, default)


def _way_out(name: str, known: frozenset[str]) -> str:
    close = None if name in IGNORED_FIELDS else nearest(name, known)
    return f"; did you mean {close}?" if close else "; leave it out"


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadRow("E_MESSAGES", f"body.messages is {shown(value)}; it must be a list with at least one message")
    return tuple(_message(place, message) for place, message in enumerate(value))


def _message(place: int, value: Any) -> Message:
    where = f"body.messages[{place}]"
    if not isinstance(value, dict):
        raise BadRow("E_MESSAGES", f"{where} is {shown(value)}; it must be an object with role and content")
    extra = value.keys() - {"role", "content", "name"}
    if extra:
        raise BadRow("E_MESSAGES", f"{where}.{escaped(min(extra))} is not known; a message has role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("E_MESSAGES", f"{where}.role is {shown(role)}; known: {', '.join(ROLES)}")
    return Message(ROLES[role], _content(f"{where}.content", value.get("content")))


def _content(where: str, value: Any) -> str:
    if isinstance(value, list):
        value = "".join(_text_part(f"{where}[{place}]", part) for place, part in enumerate(value))
    if not isinstance(value, str):
        raise BadRow("E_MESSAGES", f"{where} is {shown(value)}; it must be text")
    if not value.strip():
        raise BadRow("E_PROMPT", f"{where} is empty; write what is to be answered there")
    return value


def _text_part(where: str, part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return cast(str, part["text"])
    raise BadRow("E_MESSAGES", f'{where} is {shown(part)}; only parts of "type": "text" can be answered')


def _bare_prompt(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, str) or not value.strip():
        raise BadRow("E_PROMPT", f"body.prompt is {shown(value)}; it must be text that is not empty")
    return (Message("user", value),)


def read_sampling(endpoint: Endpoint, body: Mapping[str, Any], default: Sampling) -> Sampling:
    fields: dict[str, Any] = {}
    for name, kind, low, high in RANGES:
        value = body.get(name)
        if value is not None:
            fields[NAMES.get(name, name)] = _number(f"body.{name}", value, kind, low, high)
    if body.get("stop") is not None:
        fields["stop"] = _stops(body["stop"])
    if body.get("response_format") is not None:
        fields["json_schema"] = _json_schema(body["response_format"])
    fields["logprobs"] = _LOGPROBS[endpoint](body)
    return _sampling(default, tuple(fields.items()))


@lru_cache(maxsize=1024)  # a job has few different ones, and to make one costs more than all the checks
def _sampling(default: Sampling, fields: tuple[tuple[str, Any], ...]) -> Sampling:
    return structs.replace(default, **dict(fields))


RANGES: tuple[tuple[str, Kind, float, float], ...] = (
    ("max_tokens", "integer", 1, MAX_OUTPUT_TOKENS),
    ("max_completion_tokens", "integer", 1, MAX_OUTPUT_TOKENS),
    ("temperature", "number", 0, 2),
    ("top_p", "number", 1e-6, 1),
    ("top_k", "integer", 0, 1_000_000),
    ("min_p", "number", 0, 1),
    ("seed", "integer", -(2**63) + 1, 2**63 - 1),
    ("n", "integer", 1, MAX_CHOICES),
    ("presence_penalty", "number", -2, 2),
    ("frequency_penalty", "number", -2, 2),
    ("repetition_penalty", "number", 0.01, 2),
)
NAMES = {"max_completion_tokens": "max_tokens"}


def _number(where: str, value: Any, kind: Kind, low: float, high: float) -> int | float:
    right_type = int if kind == "integer" else (int, float)
    if isinstance(value, bool) or not isinstance(value, right_type) or not low <= value <= high:
        raise BadRow("E_PARAM", f"{where} is {shown(value)}; it must be {_article(kind)} from {low:g} to {high:g}")
    return value if kind == "integer" else float(value)


def _article(kind: Kind) -> str:
    return "an integer" if kind == "integer" else f"a {kind}"


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRow("E_PARAM", f"body.stop is {shown(value)}; it must be text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise BadRow("E_PARAM", f"body.stop has {len(stops)} texts; at most {MAX_STOPS} are allowed")
    if (longest := max(map(len, stops), default=0)) > MAX_STOP_CHARACTERS:
        raise BadRow("E_PARAM", f"body.stop has a text of {longest} characters; at most {MAX_STOP_CHARACTERS}")
    return tuple(stops)


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise BadRow("E_PARAM", f"body.logprobs is {shown(wanted)}; in a chat request it is true or false")
    if top is not None and not wanted:
        raise BadRow("E_PARAM", "body.top_logprobs needs body.logprobs to be true")
    if not wanted:
        return None
    return int(_number("body.top_logprobs", top, "integer", 0, MAX_LOGPROBS)) if top is not None else 0


def _completion_logprobs(body: Mapping[str, Any]) -> int | None:
    if body.get("top_logprobs") is not None:
        raise BadRow("E_PARAM", "body.top_logprobs belongs to chat requests; here logprobs is the number itself")
    count = body.get("logprobs")
    return None if count is None else int(_number("body.logprobs", count, "integer", 0, MAX_LOGPROBS))


_LOGPROBS: dict[Endpoint, Callable[[Mapping[str, Any]], int | None]] = {
    Endpoint.CHAT: _chat_logprobs,
    Endpoint.COMPLETION: _completion_logprobs,
}


def _json_schema(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return canonical_json({"type": "object"})
    if kind != "json_schema":
        raise BadRow("E_PARAM", f"body.response_format is {shown(value)}; known types: text, json_object, json_schema")
    wrapper = value.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        reason = "body.response_format.json_schema.schema is missing; it must be an object"
        raise BadRow("E_SCHEMA_LIMIT", reason)
    return checked_schema(schema)
