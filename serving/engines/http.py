"""Any OpenAI-compatible server over HTTP: as much at once as it keeps up with, retries, rows that fail alone.

The event loop lives in a thread of its own; `run` stays an ordinary iterator.
"""

import asyncio
import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from serving.engines.machine import CannotRun
from serving.engines.openai_api.asking import Asking, Server, ServerRefuses
from serving.engines.openai_api.dialects import OPENAI, Dialect
from serving.engines.openai_api.loop_thread import loop_in_thread
from serving.engines.unseen import Unseen
from serving.records import Completion, EngineDied, Request, Usage
from serving.store.meter import Meter

__all__ = ["BadKey", "HttpEngine", "ServerRefuses"]

POLL_S = 0.25
CLOSE_S = 5.0
ROW_TIMEOUT_S = 3600.0
Answers = queue.SimpleQueue[Future[Completion | None]]


class BadKey(ValueError):
    """The environment variable that should hold the API key is not set, or holds what no header can carry."""


class HttpEngine(Unseen):
    """One model on one server. `concurrency` bounds the rows in flight; how many there are, the server decides.

    A server that cannot be reached, or that refuses us altogether, fails the engine, not its rows: they stay pending.
    A stop closes the connections of what is in flight. With `drain` it waits for it instead: where tokens are billed,
    it has been paid for. A `cache_salt` keeps a server from sharing cached prompts between those who send different
    ones.
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
        row_timeout_s: float = ROW_TIMEOUT_S,
        dialect: Dialect = OPENAI,
    ) -> None:
        if cache_salt is not None and not dialect.takes_salt:
            raise CannotRun(
                f"{dialect.server} ignores engine.cache_salt, so tenants would share its cache; leave it out"
            )
        self._server = Server(
            base_url.rstrip("/"), model, _key(api_key_env), dialect, cache_salt, timeout_s, row_timeout_s, max_retries
        )
        self._concurrency = concurrency
        self._stop = stop
        self._drain = drain
        self._meter = meter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def run(self, requests: Iterator[Request | None]) -> Iterator[Completion]:
        with loop_in_thread() as loop:
            asking = Asking(self._server, self._concurrency)
            try:
                yield from self._answers(loop, asking, requests)
            finally:
                _close(loop, asking)

    def _answers(
        self, loop: asyncio.AbstractEventLoop, asking: Asking, requests: Iterator[Request | None]
    ) -> Iterator[Completion]:
        done: Answers = queue.SimpleQueue()
        in_flight = 0
        more, stopping = True, False
        while more or in_flight:
            while more and in_flight < asking.window.limit:
                try:
                    request = next(requests)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                asyncio.run_coroutine_threadsafe(asking.answer(request), loop).add_done_callback(done.put)
                in_flight += 1
            if in_flight and (ended := _get(done)) is not None:
                in_flight -= 1
                completion = None if ended.cancelled() else ended.result()
                if completion is not None:
                    self._count(completion.usage)
                    yield completion
            elif in_flight and not loop.is_running():
                raise EngineDied(f"the connection to {self._server.base_url} ended with {in_flight} requests in flight")
            if not stopping and self._stop():
                if not self._drain:
                    return
                more, stopping = False, True
                loop.call_soon_threadsafe(asking.drain)

    def _count(self, usage: Usage) -> None:
        """Put on the meter what the server says that it computed; of what it did not answer it says nothing."""
        if self._meter is not None:
            self._meter.count(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens)


def _key(api_key_env: str | None) -> str | None:
    if api_key_env is None:
        return None
    key = os.environ.get(api_key_env)
    if not key:
        raise BadKey(f"engine.api_key_env names {api_key_env!r}, but that environment variable is not set")
    if not (key.isascii() and key.isprintable()):
        raise BadKey(f"the key in {api_key_env} has a line break or another character that no HTTP header can carry")
    return key


def _get(done: Answers) -> Future[Completion | None] | None:
    try:
        return done.get(timeout=POLL_S)
    except queue.Empty:
        return None


def _close(loop: asyncio.AbstractEventLoop, asking: Asking) -> None:
    """Wait until every connection is closed, but not for ever: the process may be on its way out."""
    closing = asyncio.run_coroutine_threadsafe(asking.close(), loop)
    try:
        closing.result(CLOSE_S)
    except TimeoutError:
        pass
