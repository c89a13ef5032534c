"""Any OpenAI-compatible server over HTTP: bounded concurrency, retries with backoff, rows that fail alone.

The event loop lives in a thread of its own; `run` stays an ordinary iterator.
"""

import asyncio
import hashlib
import json
import os
import queue
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import httpx

from serving.records import Choice, Completion, Endpoint, EngineDied, Failure, Rates, Request, Usage, canonical_json
from serving.store.meter import Meter

RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504}
MAX_TOKENS = 2**31 - 1
MAX_REPLY_BYTES = 64 * 2**20  # eight choices of 131,072 tokens with their text take some 5 MB
MAX_SAID = 300  # characters of a server's own words that are kept
REFUSES_US = {401, 403, 404}
IS_UP_S = 30.0
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0
POLL_S = 0.25
PATHS = {Endpoint.CHAT: "/chat/completions", Endpoint.COMPLETION: "/completions"}
DEFAULTS_OF_SERVERS: dict[str, Any] = {  # left out when they say nothing, since not every server knows every field
    "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None, "n": 1, "stop": (), "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip


Outcome = Completion | BaseException


class BadKey(ValueError):
    """The environment variable that should hold the API key is not set, or holds what no header can carry."""


class ServerRefuses(ValueError):
    """The server knows neither this key nor this model, so no row can be answered."""


class UnreadableReply(ValueError):
    """A reply that is not taken in: too long, or packed so that its length cannot be known."""


class HttpEngine:
    """One model on one server. Rows in flight are bounded by `concurrency`.

    A server that cannot be reached, or that refuses us altogether, fails the engine, not its rows: they stay pending.
    With `drain`, a stop waits for what is in flight: where tokens are billed, it has been paid for.
    A `cache_salt` keeps a vLLM server from sharing cached prompts between those who send different ones.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None,
        concurrency: int,
        timeout_s: float,
        max_retries: int,
        stop: Callable[[], bool] = lambda: False,
        drain: bool = False,
        cache_salt: str | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._key = _key(api_key_env)
        self._cache_salt = cache_salt
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._timeout = httpx.Timeout(timeout_s, connect=min(30.0, timeout_s))
        self._max_retries = max_retries
        self._stop = stop
        self._drain = drain
        self._answered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @property
    def rates(self) -> Rates | None:
        """None: a server does not show its steps."""
        return None

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        todo: queue.Queue[Request | None] = queue.Queue()
        done: queue.Queue[Outcome] = queue.Queue()
        thread = threading.Thread(target=lambda: asyncio.run(self._answer_all(todo, done)), daemon=True)
        thread.start()
        in_flight = 0
        more = True
        try:
            while more or in_flight:
                while more and in_flight < self._concurrency:
                    request = next(requests, None)
                    more = request is not None
                    if request is not None:
                        todo.put(request)
                        in_flight += 1
                if in_flight and (outcome := _get(done)) is not None:
                    if isinstance(outcome, BaseException):
                        raise outcome
                    in_flight -= 1
                    self._count(outcome.usage)
                    yield outcome
                elif in_flight and not thread.is_alive():
                    raise EngineDied(f"the connection to {self._base_url} ended with {in_flight} requests in flight")
                if self._stop():
                    more = False
                    if not self._drain:
                        return
        finally:
            todo.put(None)

    def _count(self, usage: Usage) -> None:
        """Put on the meter what the server says that it computed; of what it did not answer it says nothing."""
        if self._meter is not None:
            self._meter.count(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens)

    async def _answer_all(self, todo: "queue.Queue[Request | None]", done: "queue.Queue[Outcome]") -> None:
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        async with httpx.AsyncClient(headers=headers, timeout=self._timeout, limits=limits) as client:
            tasks: set[asyncio.Task[Completion]] = set()
            async for request in _stream(todo):
                task = asyncio.create_task(self._try(client, request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda task: None if task.cancelled() else done.put(_outcome(task)))
            for task in tasks:
                task.cancel()

    async def _try(self, client: httpx.AsyncClient, request: Request) -> Completion:
        """An answer, or why this row has none.

        Raises:
            ServerRefuses: nothing that we send will be answered.
            EngineDied: all tries failed and meanwhile no other row was answered, so it is the server, not the row.
        """
        failure = Failure("E_HTTP", "never sent")
        body = self._body(request)
        headers = {"Idempotency-Key": _idempotency_key(request, body)}
        answered_before = self._answered
        for attempt in range(self._max_retries + 1):
            try:
                reply = await self._post(client, PATHS[request.endpoint], body, headers)
            except (httpx.TimeoutException, TimeoutError):
                failure, wait_s = Failure("E_TIMEOUT", f"no answer from {self._base_url} in time"), None
            except httpx.HTTPError as error:
                said = f"{self._base_url} cannot be reached: {error or type(error).__name__}"
                failure, wait_s = self._fit_to_keep(Failure("E_CONNECTION", said)), None
            except UnreadableReply as error:
                self._answered += 1
                return Completion(request.row, failure=Failure("E_REPLY", str(error)))
            else:
                if reply.status_code == httpx.codes.OK:
                    self._answered += 1
                    done = _read_reply(request, reply)
                    return replace(done, failure=self._fit_to_keep(done.failure)) if done.failure else done
                failure, wait_s = self._fit_to_keep(_refused(reply)), _retry_after_s(reply)
                if reply.status_code in REFUSES_US or reply.is_redirect:
                    raise ServerRefuses(f"{self._base_url} answered {reply.status_code}: {failure.reason}")
                if reply.status_code not in RETRYABLE:
                    self._answered += 1
                    return Completion(request.row, failure=failure)
            if attempt < self._max_retries:
                await asyncio.sleep(wait_s if wait_s is not None else _backoff_s(attempt))
        if self._answered == answered_before and not await self._is_up(client):
            raise EngineDied(f"{failure.reason} ({failure.code}, {self._max_retries + 1} tries, no other row answered)")
        return Completion(request.row, failure=failure)

    async def _post(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> httpx.Response:
        """The whole reply; one that never ends is left, in time as in length.

        Raises:
            UnreadableReply: longer than any answer, or compressed, which was not asked for.
        """
        content = bytearray()
        async with (
            asyncio.timeout(self._timeout_s),
            client.stream("POST", self._base_url + path, json=body, headers=headers) as reply,
        ):
            if (packed := reply.headers.get("content-encoding", "identity")) != "identity":
                raise UnreadableReply(f"the reply is packed ({packed[:20]}), though we asked for it as it is")
            async for block in reply.aiter_bytes():
                content += block
                if len(content) > MAX_REPLY_BYTES:
                    raise UnreadableReply(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        return httpx.Response(reply.status_code, headers=reply.headers, content=bytes(content))

    def _fit_to_keep(self, failure: Failure) -> Failure:
        """In short, on one line, and without our key: a server that quotes it must not spread it to logs and files."""
        said = " ".join(failure.reason.split())
        said = said.replace(self._key, "[key]") if self._key else said
        return replace(failure, reason=said[:MAX_SAID].encode(errors="replace").decode())

    async def _is_up(self, client: httpx.AsyncClient) -> bool:
        """True if the server answers the one question that every OpenAI-compatible server answers."""
        try:
            async with asyncio.timeout(IS_UP_S), client.stream("GET", f"{self._base_url}/models") as reply:
                return reply.is_success  # what it lists is not read
        except (httpx.HTTPError, TimeoutError):
            return False

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if request.endpoint is Endpoint.CHAT:
            body["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        else:
            body["prompt"] = request.messages[0].content
        for name, default in DEFAULTS_OF_SERVERS.items():
            if (value := getattr(sampling, name)) != default:
                body[name] = value
        salt = {} if self._cache_salt is None else {"cache_salt": self._cache_salt}
        return body | _logprobs(request) | _response_format(request) | salt


def _idempotency_key(request: Request, body: dict[str, Any]) -> str:
    """The same at every try of a row, after a resume as well: a server that knows it answers and bills once."""
    return hashlib.sha256(canonical_json([request.row, request.custom_id, body]).encode()).hexdigest()


def _key(api_key_env: str | None) -> str | None:
    if api_key_env is None:
        return None
    key = os.environ.get(api_key_env)
    if not key:
        raise BadKey(f"engine.api_key_env names {api_key_env!r}, but that environment variable is not set")
    if not (key.isascii() and key.isprintable()):
        raise BadKey(f"the key in {api_key_env} has a line break or another character that no HTTP header can carry")
    return key


def _logprobs(request: Request) -> dict[str, Any]:
    count = request.sampling.logprobs
    if count is None:
        return {}
    if request.endpoint is Endpoint.COMPLETION:
        return {"logprobs": count}
    return {"logprobs": True} | ({"top_logprobs": count} if count else {})


def _response_format(request: Request) -> dict[str, Any]:
    if request.sampling.json_schema is None:
        return {}
    schema = {"name": "answer", "schema": json.loads(request.sampling.json_schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _read_reply(request: Request, reply: httpx.Response) -> Completion:
    """A reply that is not of the promised form fails its row; it is never taken for an answer."""
    usage = Usage(0, 0)  # tokens that the server counted are billed, whatever the rest of its reply is worth
    try:
        body = reply.json()
        usage = _usage(body["usage"])
        in_order = sorted(enumerate(body["choices"]), key=lambda placed: placed[1].get("index", placed[0]))
        choices = tuple(_choice(request.endpoint, choice) for _, choice in in_order)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = f"the reply is not in OpenAI form: {type(error).__name__}: {error}"
        return Completion(request.row, usage=usage, failure=Failure("E_REPLY", reason))
    if len(choices) != request.sampling.n:
        reason = f"asked for {request.sampling.n} choices, got {len(choices)}"
        return Completion(request.row, usage=usage, failure=Failure("E_REPLY", reason))
    return Completion(request.row, choices, usage)


def _choice(endpoint: Endpoint, choice: dict[str, Any]) -> Choice:
    text = choice["message"]["content"] if endpoint is Endpoint.CHAT else choice["text"]
    if not isinstance(text, str):
        raise TypeError(f"the answer is {type(text).__name__}, not text")
    text.encode()  # half a character cannot be stored
    logprobs = choice.get("logprobs") or {}
    tokens = logprobs.get("content") if endpoint is Endpoint.CHAT else _flat_logprobs(logprobs)
    return Choice(text, choice.get("finish_reason") or "stop", tokens)


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


def _refused(reply: httpx.Response) -> Failure:
    try:
        said = reply.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = reply.text
    return Failure(f"E_HTTP_{reply.status_code}", str(said))


def _retry_after_s(reply: httpx.Response) -> float | None:
    """What the server asks for, within reason; dates and nonsense are left to our own backoff."""
    try:
        return min(max(0.0, float(reply.headers["retry-after"])), MAX_BACKOFF_S)
    except (KeyError, ValueError):
        return None


def _backoff_s(attempt: int) -> float:
    """Doubling with full jitter, so that many clients do not come back at once."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt)


def _get(done: "queue.Queue[Outcome]") -> Outcome | None:
    try:
        return done.get(timeout=POLL_S)
    except queue.Empty:
        return None


def _outcome(task: "asyncio.Task[Completion]") -> Outcome:
    return task.exception() or task.result()


async def _stream(todo: "queue.Queue[Request | None]") -> AsyncIterator[Request]:
    while (request := await asyncio.to_thread(todo.get)) is not None:
        yield request
