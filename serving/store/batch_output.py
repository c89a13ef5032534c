"""A line of the export: an output of OpenAI's Batch API, with a part of ours. Fields are written in the order that they
stand in here. No value can be part of a reference cycle, so the garbage collector need not look at any."""

from typing import Any

from msgspec import Struct

from serving.records import Choice, Endpoint
from serving.store.schemas import choices_from


class Message(Struct, gc=False):
    content: str
    refusal: None = None
    role: str = "assistant"


class ChatChoice(Struct, gc=False):
    finish_reason: str
    index: int
    logprobs: dict[str, Any] | None
    message: Message


class TextChoice(Struct, gc=False):
    finish_reason: str
    index: int
    logprobs: dict[str, Any] | None
    text: str


class PromptDetails(Struct, gc=False):
    cached_tokens: int


class Used(Struct, gc=False):
    completion_tokens: int
    prompt_tokens: int
    prompt_tokens_details: PromptDetails
    total_tokens: int


class Own(Struct, gc=False):
    """Ours, beside the standard fields: where the answer came from and what it cost."""

    answered_by_row: int
    lane: str
    source: str
    usd: str


class Body(Struct, gc=False):
    choices: list[ChatChoice | TextChoice]
    created: int
    gristmill: Own
    id: str
    model: str
    object: str
    usage: Used


class Response(Struct, gc=False):
    body: Body
    request_id: str
    status_code: int


class Result(Struct, gc=False):
    custom_id: str
    error: None
    id: str
    response: Response


class Error(Struct, gc=False):
    code: str
    file: str
    line: int
    message: str


class Refused(Struct, gc=False):
    custom_id: str | None
    error: Error
    id: str
    response: None


def result(
    run_id: str,
    created_unix_s: int,
    row: int,
    custom_id: str,
    endpoint: str,
    choices: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    lane: str,
    source: str,
    answered_by: int,
    usd: str,
) -> Result:
    """An answered row; `choices` as a segment has them."""
    name = f"{run_id}-{row}"
    used = Used(completion_tokens, prompt_tokens, PromptDetails(cached_tokens), prompt_tokens + completion_tokens)
    own = Own(answered_by, lane, source, usd)
    chat = endpoint == Endpoint.CHAT
    form, kind, prefix = (_chat, "chat.completion", "chatcmpl") if chat else (_text, "text_completion", "cmpl")
    each = [form(place, choice) for place, choice in enumerate(choices_from(choices))]
    body = Body(each, created_unix_s, own, f"{prefix}-{name}", model, kind, used)
    return Result(custom_id, None, name, Response(body, name, 200))


def refused(run_id: str, row: int, custom_id: str | None, file: str, line: int, code: str, reason: str) -> Refused:
    """A row that has no answer."""
    return Refused(custom_id, Error(code, file, line, reason), f"{run_id}-{row}", None)


def _chat(place: int, choice: Choice) -> ChatChoice | TextChoice:
    logprobs = None if choice.logprobs is None else {"content": choice.logprobs}
    return ChatChoice(choice.finish_reason, place, logprobs, Message(choice.text))


def _text(place: int, choice: Choice) -> ChatChoice | TextChoice:
    logprobs = None if choice.logprobs is None else _lists(choice.logprobs)
    return TextChoice(choice.finish_reason, place, logprobs, choice.text)


def _lists(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """The completions endpoint lists tokens and numbers in lists of their own."""
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
    }
