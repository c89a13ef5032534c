"""Between our vocabulary and the OpenAI API: a request as a body, a reply as a completion."""

import json
from typing import Any

import httpx

from serving.engines.openai_api.dialects import OPENAI, Dialect
from serving.records import Choice, Completion, Endpoint, Failure, Request, Sampling, Usage

PATHS = {Endpoint.CHAT: "/chat/completions", Endpoint.COMPLETION: "/completions"}
MAX_TOKENS = 2**31 - 1
OFF = Sampling()
DRAWING = ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
WHERE_SET = ("seed", "n", "stop")
STOPPED = {"eos_token": "stop", "stop_sequence": "stop"}  # TGI's words
GAVE_UP = {"abort", "error"}


class Unheeded(ValueError):
    """A field that this server would ignore, so that the answer would not be the one that was asked for."""


def body_of(request: Request, model: str, dialect: Dialect = OPENAI, cache_salt: str | None = None) -> dict[str, Any]:
    """What is sent. `max_tokens` and `temperature` always go: servers differ in what they take for granted.

    Raises:
        Unheeded: the server would ignore a field of this row, or read another value.
    """
    sampling = request.sampling
    _check_heeded(request, dialect)
    body: dict[str, Any] = {"model": model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if request.endpoint is Endpoint.CHAT:
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
    else:
        body["prompt"] = request.messages[0].content
    body |= {name: value for name in WHERE_SET if (value := getattr(sampling, name)) != getattr(OFF, name)}
    body |= _drawing(sampling, dialect) | _logprobs(request, dialect)
    if sampling.json_schema is not None:
        body |= dialect.schema(json.loads(sampling.json_schema))
    return body if cache_salt is None else body | {"cache_salt": cache_salt}


def _check_heeded(request: Request, dialect: Dialect) -> None:
    ignored = dialect.ignores.get(request.endpoint, frozenset())
    for name in sorted(ignored):
        if (value := getattr(request.sampling, name)) != getattr(OFF, name):
            raise Unheeded(f"{dialect.server} would ignore {name} = {value!r} at {request.endpoint}; leave it out")
    seed = request.sampling.seed
    if seed is not None and seed not in dialect.seeds:
        raise Unheeded(f"{dialect.server} takes seeds from 0 to {dialect.seeds[-1]}, not {seed}")


def _drawing(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    ours = {name: getattr(sampling, name) for name in DRAWING}
    sent = {name: value for name, value in ours.items() if dialect.sends_what_is_off or value != getattr(OFF, name)}
    if sent.get("top_k") == 0:
        sent["top_k"] = dialect.top_k_off
    if "repetition_penalty" in sent:
        sent[dialect.repetition_penalty] = sent.pop("repetition_penalty")
    return sent


def _logprobs(request: Request, dialect: Dialect) -> dict[str, Any]:
    if request.sampling.logprobs is None:
        return {}
    count = max(request.sampling.logprobs, dialect.least_logprobs)
    if request.endpoint is Endpoint.COMPLETION:
        return {"logprobs": count}
    return {"logprobs": True} | ({"top_logprobs": count} if count else {})


def read_reply(request: Request, reply: httpx.Response) -> Completion:
    """A reply that is not of the promised form fails its row; it is never taken for an answer."""
    usage = Usage(0, 0)  # tokens that the server counted are billed, whatever the rest of its reply is worth
    try:
        body = reply.json()
        usage = _usage(body["usage"])
        in_order = sorted(enumerate(body["choices"]), key=lambda placed: placed[1].get("index", placed[0]))
        choices = tuple(_choice(request, choice) for _, choice in in_order)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = f"the reply is not in OpenAI form: {type(error).__name__}: {error}"
        return Completion(request.row, usage=usage, failure=Failure("E_REPLY", reason))
    if len(choices) != request.sampling.n:
        reason = f"asked for {request.sampling.n} choices, got {len(choices)}"
        return Completion(request.row, usage=usage, failure=Failure("E_REPLY", reason))
    if gave_up := [choice.finish_reason for choice in choices if choice.finish_reason in GAVE_UP]:
        reason = f"the server gave up on the answer (finish_reason {gave_up[0]!r})"
        return Completion(request.row, usage=usage, failure=Failure("E_REPLY", reason))
    return Completion(request.row, choices, usage)


def _choice(request: Request, choice: dict[str, Any]) -> Choice:
    text = choice["message"]["content"] if request.endpoint is Endpoint.CHAT else choice["text"]
    if not isinstance(text, str):
        raise TypeError(f"the answer is {type(text).__name__}, not text")
    text.encode()  # half a character cannot be stored
    finish_reason = choice.get("finish_reason") or "stop"
    if not isinstance(finish_reason, str):
        raise TypeError(f"the finish_reason is {type(finish_reason).__name__}, not text")
    return Choice(text, STOPPED.get(finish_reason, finish_reason), _tokens(request, choice.get("logprobs") or {}))


def _tokens(request: Request, logprobs: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Of a token each. llama.cpp has this form at both endpoints, the others at one."""
    if "content" not in logprobs:
        return _flat_logprobs(logprobs)
    tokens: list[dict[str, Any]] | None = logprobs["content"]
    if tokens is not None and request.sampling.logprobs == 0:  # some give alternatives that were not asked for
        return [{**token, "top_logprobs": []} for token in tokens]
    return tokens


def _flat_logprobs(logprobs: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The completions endpoint lists tokens and numbers side by side."""
    if not logprobs:
        return None
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return [
        {"token": token, "logprob": value, "top_logprobs": [{"token": t, "logprob": p} for t, p in (top or {}).items()]}
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def _usage(usage: dict[str, Any]) -> Usage:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    counts = (usage["prompt_tokens"], usage["completion_tokens"], cached)
    if not all(isinstance(count, int) and 0 <= count <= MAX_TOKENS for count in counts):
        raise ValueError(f"token counts {counts} are not counts")
    return Usage(counts[0], counts[1], min(cached, counts[0]))


def refusal(reply: httpx.Response) -> Failure:
    """Why a server did not answer, in its own words: OpenAI's form, TGI's or SGLang's, else the whole text."""
    try:
        said = reply.json()
        said = said.get("error", said.get("message")) if isinstance(said, dict) else None
        said = said["message"] if isinstance(said, dict) else said
    except (ValueError, KeyError, RecursionError):
        said = None
    return Failure(f"E_HTTP_{reply.status_code}", said if isinstance(said, str) else reply.text)
