"""One vLLM, seen from our side: a child process that is given requests, answers in any order, and may die alone."""

import json
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import structs

from serving.engine_config import Adapters
from serving.engines.fork_server import ForkServer
from serving.engines.step_page import StepPage
from serving.last_words import last_words
from serving.records import Choice, Completion, EngineDied, Failure, Request, StepEvidence, Usage

START_LIMIT_S = 1800.0  # a large model on a slow disk; a compiled one on a slow CPU
POLL_S = 0.25


class VllmProcess:
    """Started by `start`, usable once `await_ready` returned, gone after `close`; `in_flight` are its open rows."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        server: ForkServer,
        adapters: Adapters,
        log: Path,
        meter_path: str,
        place: int,
        window: int,
        hangs_s: float,
        cache_salt: str | None,
    ) -> None:
        self.in_flight: set[int] = set()
        self.sums: dict[str, float] = {}  # engine time by what its steps did
        self.under_way: Mapping[int, int] = {}  # by row, tokens put out; as it was told last, up to a second ago
        self._window = window
        self.server = server
        self._order = {"arguments": arguments, "meter": meter_path, "place": place}
        self._log_path = log
        self._adapters = {name: (number, folder) for number, (name, folder) in enumerate(adapters.folders, start=1)}
        self._hangs_s = hangs_s
        self._cache_salt = cache_salt
        self._moved_s = 0.0
        self._step_seen = 0

    def start(self) -> None:
        self._step = StepPage()
        answers, tells = os.pipe()
        asked, asks = os.pipe()
        leash, self._leash = os.pipe()  # we hold its other end: when we are gone, however, the engine is let go as well
        with self._log_path.open("ab") as log:
            self._child = self.server.fork(self._order, (asked, tells, leash, self._step.descriptor), log.fileno())
        for theirs in (asked, tells, leash):
            os.close(theirs)
        self._lines = _Lines(answers)
        self._asks = os.fdopen(asks, "wb")

    def await_ready(self, stop: Callable[[], bool]) -> None:
        """Returns as well when a stop came first. Raises EngineDied."""
        give_up = time.monotonic() + START_LIMIT_S
        while not stop():
            if self._lines.read(POLL_S):  # the first line says that it is ready, and nothing else
                return
            if self._lines.ended or time.monotonic() > give_up:
                raise self._death("before it was ready")

    def close(self) -> None:
        self._child.end()
        os.close(self._leash)
        self._lines.close()
        self._step.close()
        _close_quietly(self._asks)

    @property
    def descriptor(self) -> int:
        """Readable when there is something to `take`."""
        return self._lines.descriptor

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def room(self) -> int:
        """How many requests more it has a use for."""
        return self._window - len(self.in_flight)

    @property
    def steps(self) -> int:
        """How many it has begun."""
        return self._step.read().number

    @property
    def evidence(self) -> StepEvidence | None:
        """What its steps took, also once it is closed; None before there was one, and where they cannot be seen."""
        return self._step.evidence()

    def give(self, request: Request) -> None:
        """Raises EngineDied."""
        assert request.prompt_token_ids is not None, "a local model's requests are tokenized at admission"
        sampling = structs.asdict(request.sampling)
        message = {"row": request.row, "prompt_token_ids": request.prompt_token_ids, "sampling": sampling}
        if self._cache_salt is not None:
            message["cache_salt"] = self._cache_salt
        if request.adapter is not None:
            number, folder = self._adapters[request.adapter]
            message["adapter"] = {"lora_name": request.adapter, "lora_int_id": number, "lora_path": folder}
        if not self.in_flight:
            self._moved_s = time.monotonic()
        self.in_flight.add(request.row)
        try:
            self._asks.write(json.dumps(message).encode() + b"\n")
            self._asks.flush()
        except BrokenPipeError:
            raise self._death("while it was being fed") from None

    def take(self) -> Iterator[Completion]:
        """What is finished by now."""
        for message in self._lines.read(0):
            if "under_way" in message:
                self.under_way = _tokens_by_row(message["under_way"])
                continue
            completion = self._completion(message)
            if completion.row not in self.in_flight:
                raise EngineDied(f"the engine answered row {completion.row}, which is not in flight")
            self.in_flight.remove(completion.row)
            self._moved_s = time.monotonic()
            yield completion

    def must_live(self) -> None:
        """Raises EngineDied where it has ended, or where nothing has moved for so long that nothing will."""
        if not self.in_flight:
            return
        if self._lines.ended:
            raise self._death(f"with {len(self.in_flight)} requests in flight")
        if (step := self.steps) != self._step_seen:
            self._step_seen, self._moved_s = step, time.monotonic()
        if time.monotonic() - self._moved_s > self._hangs_s:
            raise self._death(f"after no step in {self._hangs_s:g} s")

    def _completion(self, message: dict[str, Any]) -> Completion:
        if failed := message.get("failed"):
            return Completion(failed["row"], failure=Failure(failed["code"], failed["reason"]))
        self.sums = message["steps"]
        done = message["done"]
        return Completion(
            row=done["row"],
            choices=tuple(Choice(**choice) for choice in done["choices"]),
            usage=Usage(**{name: done[name] for name in Usage.__struct_fields__}),
            queue_s=done["queue_s"],
            prefill_s=done["prefill_s"],
            decode_s=done["decode_s"],
        )

    def _death(self, when: str) -> EngineDied:
        """With the rows that it was about: those that ran for the first time, then the rest of the step, or, where
        its steps cannot be seen, all that it had been given."""
        step = self._step.read()
        seen = tuple(row for row in (*step.new, *step.others) if row in self.in_flight)
        newest = sum(1 for row in step.new if row in self.in_flight)
        code = self._child.exit_code() if self._lines.ended else "none, it hangs"
        said = f"vLLM ended {when} (exit code {code}): {last_words(self._log_path)}"
        return EngineDied(said, seen or tuple(sorted(self.in_flight)), newest)


def _tokens_by_row(choices: list[list[int]]) -> Mapping[int, int]:
    tokens: Counter[int] = Counter()
    for row, put_out in choices:
        tokens[row] += put_out
    return tokens


class _Lines:
    """JSON lines out of a pipe, without ever waiting longer than asked."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.ended = False

    def read(self, wait_s: float) -> list[dict[str, Any]]:
        if self.ended or not self._poll.poll(wait_s * 1000):
            return []
        block = os.read(self.descriptor, 2**20)
        self.ended = not block
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        os.close(self.descriptor)


def _close_quietly(pipe: BinaryIO) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        pass
