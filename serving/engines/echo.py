"""The shipped double: answers with the prompt's own words. Deterministic, instant if asked, faulty if told."""

import json
import os
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from serving.engines.unseen import Unseen
from serving.records import Choice, Completion, EngineDied, Failure, Request, Usage
from serving.store.meter import Meter

POLL_S = 0.1


class EchoEngine(Unseen):
    """`fails` says which requests fail; `dies_after` makes the engine die like a crashed process would.

    `audit` names a file to which every request is appended as its tokens are spent, in one write: a witness that knows
    nothing of the run, to hold the ledger against.
    """

    def __init__(
        self,
        answer_s: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        fails: Callable[[Request], bool] = lambda request: False,
        dies_after: int | None = None,
        meter: Meter | None = None,
        audit: str | None = None,
    ) -> None:
        self._meter = meter
        self._audit = None if audit is None else os.open(audit, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._answer_s = answer_s
        self._stop = stop
        self._fails = fails
        self._dies_after = dies_after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._audit is not None:
            os.close(self._audit)

    def run(self, requests: Iterator[Request | None]) -> Iterator[Completion]:
        for number, request in enumerate(filter(None, requests)):
            if self._stop():
                return
            if number == self._dies_after:
                raise EngineDied(f"the echo engine was told to die after {number} requests")
            if self._answer_s and not self._take_time():
                return
            answer = self._answer(request)
            self._spend(request, answer.usage)
            yield answer

    def _spend(self, request: Request, usage: Usage) -> None:
        if self._audit is not None:
            tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            line = {"row": request.row, "custom_id": request.custom_id, **tokens}
            os.write(self._audit, json.dumps(line).encode() + b"\n")
        if self._meter is not None:
            self._meter.count(usage.prompt_tokens, usage.completion_tokens)

    def _take_time(self) -> bool:
        """Wait as long as an answer takes; False if a stop came first."""
        ready = time.monotonic() + self._answer_s
        while (left_s := ready - time.monotonic()) > 0:
            if self._stop():
                return False
            time.sleep(min(left_s, POLL_S))
        return True

    def _answer(self, request: Request) -> Completion:
        if self._fails(request):
            return Completion(request.row, failure=Failure("E_ECHO", "the echo engine was told to fail this request"))
        *before, prompt = (message.content.split() for message in request.messages)
        words, n = prompt[: request.sampling.max_tokens], request.sampling.n
        choice = Choice(" ".join(words), "length" if len(words) < len(prompt) else "stop")
        prompt_tokens = sum(map(len, before), len(prompt))
        return Completion(request.row, (choice,) * n, Usage(prompt_tokens, len(words) * n))
