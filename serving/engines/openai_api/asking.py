"""One run's requests to one server, on an event loop: each is tried until it has an answer, or is known to get none."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from msgspec import structs

from serving.engines.openai_api import retries
from serving.engines.openai_api.concurrency import Window
from serving.engines.openai_api.dialects import Dialect
from serving.engines.openai_api.form import PATHS, Unheeded, body_of, read_reply, refusal
from serving.engines.openai_api.reply import UnreadableReply, whole_reply
from serving.engines.openai_api.slots import Slots
from serving.records import Completion, EngineDied, Failure, Request, canonical_json

MAX_SAID = 300  # characters of a server's own words that are kept
IS_UP_S = 30.0
CONNECT_S = 30.0


class ServerRefuses(ValueError):
    """The server knows neither this key nor this model, so no row can be answered."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where answers come from, and how long we wait for them."""

    base_url: str
    model: str
    key: str | None = field(repr=False)
    dialect: Dialect
    cache_salt: str | None
    timeout_s: float  # of one try, to the end of its reply
    row_timeout_s: float  # of all tries of a row and the waits between them
    max_retries: int


class Asking:
    """The client, the slots and the count of answers that all requests of a run share."""

    def __init__(self, server: Server, ceiling: int) -> None:
        self.window = Window(ceiling)
        self._server = server
        self._slots = Slots(self.window)
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {server.key}"} if server.key else {}),
            timeout=httpx.Timeout(server.timeout_s, connect=min(CONNECT_S, server.timeout_s)),
            limits=httpx.Limits(max_connections=ceiling, max_keepalive_connections=ceiling),
        )
        self._answered = 0
        self._draining = False
        self._rows: set[asyncio.Task[Any]] = set()
        self._sent: set[asyncio.Task[Any]] = set()  # of the rows, those that the server is at work on

    async def answer(self, request: Request) -> Completion | None:
        """An answer, or why this row has none; None where the run ended before either was known.

        Raises:
            ServerRefuses: nothing that we send will be answered.
            EngineDied: all tries failed and meanwhile no other row was answered, so it is the server, not the row.
        """
        task = asyncio.current_task()
        assert task is not None
        self._rows.add(task)
        try:
            return await self._answer(request)
        finally:
            self._rows.discard(task)

    def drain(self) -> None:
        """Let the server finish what it is at, and leave every row that waits for a try."""
        self._draining = True
        for task in self._rows - self._sent:
            task.cancel()

    async def close(self) -> None:
        """Leave whatever is in flight: its connection is closed, so that the server can stop computing."""
        rows = list(self._rows)
        for task in rows:
            task.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
        await self._client.aclose()

    async def _answer(self, request: Request) -> Completion | None:
        try:
            body = body_of(request, self._server.model, self._server.dialect, self._server.cache_salt)
        except Unheeded as unheeded:
            return Completion(request.row, failure=Failure("E_PARAM", str(unheeded)))
        answered_before = self._answered
        tried = await self._tries(request, body)
        if isinstance(tried, Completion):
            return tried
        if self._draining:
            return None
        if self._answered == answered_before and not await self._is_up():
            tries = f"{self._server.max_retries + 1} tries"
            raise EngineDied(f"{tried.reason} ({tried.code}, {tries}, no other row answered)")
        return Completion(request.row, failure=tried)

    async def _tries(self, request: Request, body: dict[str, Any]) -> Completion | Failure:
        """The first try that ends the matter, or why the last one failed."""
        server = self._server
        headers = {"Idempotency-Key": _idempotency_key(request, body)}
        failure = Failure("E_TIMEOUT", f"no answer from {server.base_url} within {server.row_timeout_s:g} s")
        try:
            async with asyncio.timeout(server.row_timeout_s):
                for attempt in range(server.max_retries + 1):
                    tried = await self._try(request, body, headers)
                    if isinstance(tried, Completion) or self._draining:
                        return tried
                    failure = tried
                    if attempt < server.max_retries and not self.window.held_s(time.monotonic()):
                        await asyncio.sleep(retries.backoff_s(attempt))
        except TimeoutError:
            pass  # the last try has said why
        return failure

    async def _try(self, request: Request, body: dict[str, Any], headers: dict[str, str]) -> Completion | Failure:
        task = asyncio.current_task()
        assert task is not None
        async with self._slots.take() as ticket:
            self._sent.add(task)
            try:
                return await self._send(request, body, headers, ticket)
            finally:
                self._sent.discard(task)

    async def _send(
        self, request: Request, body: dict[str, Any], headers: dict[str, str], ticket: int
    ) -> Completion | Failure:
        server = self._server
        try:
            async with asyncio.timeout(server.timeout_s):
                reply = await whole_reply(self._client, server.base_url + PATHS[request.endpoint], body, headers)
        except (httpx.TimeoutException, TimeoutError):
            self.window.overloaded(ticket)
            return Failure("E_TIMEOUT", f"no answer from {server.base_url} within {server.timeout_s:g} s")
        except httpx.HTTPError as error:
            said = f"{server.base_url} cannot be reached: {error or type(error).__name__}"
            return self._fit_to_keep(Failure("E_CONNECTION", said))
        except UnreadableReply as error:
            return self._settled(Completion(request.row, failure=Failure("E_REPLY", str(error))), ticket)
        if reply.status_code == httpx.codes.OK:
            return self._settled(read_reply(request, reply), ticket)
        failure = self._fit_to_keep(refusal(reply))
        if reply.status_code in retries.REFUSES_US or reply.is_redirect:
            raise ServerRefuses(f"{server.base_url} answered {reply.status_code}: {failure.reason}")
        if reply.status_code not in retries.RETRYABLE:
            return self._settled(Completion(request.row, failure=failure), ticket)
        if reply.status_code in retries.OVERLOADED:
            self.window.overloaded(ticket)
        if (wait_s := retries.retry_after_s(reply.headers, time.time())) is not None:
            self.window.hold(time.monotonic() + wait_s)
        return failure

    def _settled(self, completion: Completion, ticket: int) -> Completion:
        """A row that the server is done with, which shows that it keeps up."""
        self._answered += 1
        self.window.answered(ticket)
        failure = completion.failure
        return completion if failure is None else structs.replace(completion, failure=self._fit_to_keep(failure))

    def _fit_to_keep(self, failure: Failure) -> Failure:
        """In short, on one line, and without our key: a server that quotes it must not spread it to logs and files."""
        said = " ".join(failure.reason.split())
        said = said.replace(self._server.key, "[key]") if self._server.key else said
        return replace(failure, reason=said[:MAX_SAID].encode(errors="replace").decode())

    async def _is_up(self) -> bool:
        """True if the server answers the one question that every OpenAI-compatible server answers."""
        try:
            async with asyncio.timeout(IS_UP_S), self._client.stream("GET", f"{self._server.base_url}/models") as reply:
                return reply.is_success  # what it lists is not read
        except (httpx.HTTPError, TimeoutError):
            return False


def _idempotency_key(request: Request, body: dict[str, Any]) -> str:
    """The same at every try of a row, after a resume as well: a server that knows it answers and bills once."""
    return hashlib.sha256(canonical_json([request.row, request.custom_id, body]).encode()).hexdigest()
