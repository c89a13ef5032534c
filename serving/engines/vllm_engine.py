"""The vllm engine, seen from our side: a child process that is fed continuously and may die without us."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from serving.engine_config import EngineConfig
from serving.engines.machine import Machine
from serving.engines.step_page import StepPage
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import child_environment
from serving.records import Choice, Completion, EngineDied, Failure, Rates, Request, Usage
from serving.store.meter import Meter

WORKER = Path(__file__).with_name("vllm_worker.py")
POLL_S = 0.25
START_LIMIT_S = 1800.0  # a large model on a slow disk; a compiled one on a slow CPU
# Beyond what the engine can run at once, so that a finished request is replaced at the very next step.
QUEUE_AHEAD = 1.5
HANGS_S = 300.0  # without a step being begun or a row finished, while rows are in flight


class VllmEngine:
    """One vLLM for one model. A context manager: entering starts it and waits until it is ready.

    `stop` is asked several times a second; once it is true, `run` ends and leaves what is in flight. Only prompts of
    the same `cache_salt` share blocks of the KV cache.
    """

    def __init__(
        self,
        model: Path,
        config: EngineConfig,
        machine: Machine,
        log: Path,
        stop: Callable[[], bool],
        python: str | None,
        cache_salt: str | None = None,
        meter: Meter | None = None,
        hangs_s: float = HANGS_S,
    ) -> None:
        self._meter_path = "" if meter is None else str(meter.path.resolve())
        self._command = [python or sys.executable, "-P", str(WORKER)]
        self._settings = vllm_arguments(model, config)
        self.environment = child_environment(config, machine, python)
        self._window = int(config.batching.max_num_seqs * QUEUE_AHEAD) + 1
        self._log_path = log
        self._stop = stop
        self._cache_salt = cache_salt
        self._adapters = {
            name: (place, folder) for place, (name, folder) in enumerate(config.adapters.folders, start=1)
        }
        self._hangs_s = hangs_s
        self._sums: dict[str, float] | None = None
        self.facts: dict[str, Any] = {}  # what the engine made of its settings, once it is ready

    def __enter__(self) -> Self:
        self._log = self._log_path.open("ab")
        self._step = StepPage()
        read_end, write_end = os.pipe()
        leash, self._leash = os.pipe()  # we hold its other end: when we are gone, however, the engine is let go as well
        handles = (write_end, leash, self._step.descriptor)
        command = [*self._command, json.dumps(self._settings), self._meter_path, *map(str, handles)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=self.environment,
            pass_fds=handles, start_new_session=True,
        )  # fmt: skip
        os.close(write_end)
        os.close(leash)
        self._lines = _Lines(read_end)
        try:
            self._await_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _kill_group(self._child)
        os.close(self._leash)
        self._lines.close()
        self._step.close()
        assert self._child.stdin is not None
        _close_quietly(self._child.stdin)
        self._log.close()

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        in_flight: set[int] = set()
        more = not self._stop()  # a stop during start-up leaves an engine that is not ready
        watchdog = _Watchdog(self._hangs_s)
        while more or in_flight:
            while more and len(in_flight) < self._window:
                request = next(requests, None)
                more = request is not None
                if request is not None:
                    self._send(request, in_flight)
                    in_flight.add(request.row)
            for message in self._lines.read(POLL_S):
                completion = self._completion(message)
                if completion.row not in in_flight:
                    raise EngineDied(f"the engine answered row {completion.row}, which is not in flight")
                in_flight.remove(completion.row)
                watchdog.feed()
                yield completion
            if self._stop():
                return
            if self._lines.ended and in_flight:
                raise self._death(f"with {len(in_flight)} requests in flight", in_flight)
            if in_flight and watchdog.barks(self._step.read().number):
                raise self._death(f"after no step in {self._hangs_s:g} s", in_flight)

    @property
    def rates(self) -> Rates | None:
        """Engine seconds by token, from the steps so far; None before there were any."""
        return rates_from_steps(self._sums) if self._sums else None

    def _await_ready(self) -> None:
        give_up = time.monotonic() + START_LIMIT_S
        while not self._stop():
            if said := self._lines.read(POLL_S):  # the first line says that it is ready, and nothing else
                self.facts = said[0].get("facts", {})
                return
            if self._lines.ended or time.monotonic() > give_up:
                raise self._death("before it was ready", set())

    def _send(self, request: Request, in_flight: set[int]) -> None:
        assert request.prompt_token_ids is not None, "a local model's requests are tokenized at admission"
        sampling = asdict(request.sampling)
        message = {"row": request.row, "prompt_token_ids": request.prompt_token_ids, "sampling": sampling}
        if self._cache_salt is not None:
            message["cache_salt"] = self._cache_salt
        if request.adapter is not None:
            place, folder = self._adapters[request.adapter]
            message["adapter"] = {"lora_name": request.adapter, "lora_int_id": place, "lora_path": folder}
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._death("while it was being fed", in_flight) from None

    def _completion(self, message: dict[str, Any]) -> Completion:
        if failed := message.get("failed"):
            return Completion(failed["row"], failure=Failure(failed["code"], failed["reason"]))
        self._sums = message["steps"]
        done = message["done"]
        return Completion(
            row=done["row"],
            choices=tuple(Choice(**choice) for choice in done["choices"]),
            usage=Usage(**{name: done[name] for name in Usage.__slots__}),
            queue_s=done["queue_s"],
            prefill_s=done["prefill_s"],
            decode_s=done["decode_s"],
        )

    def _death(self, when: str, in_flight: set[int]) -> EngineDied:
        """With the rows that it was about: those that ran for the first time, then the rest of the step, or, where
        its steps cannot be seen, all that it had been given."""
        step = self._step.read()
        seen = tuple(row for row in (*step.new, *step.others) if row in in_flight)
        newest = sum(1 for row in step.new if row in in_flight)
        return EngineDied(self._last_words(when), seen or tuple(sorted(in_flight)), newest)

    def _last_words(self, when: str) -> str:
        code = self._child.wait(timeout=30) if self._lines.ended else "none, it hangs"
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "nothing")
        return f"vLLM ended {when} (exit code {code}): {said.strip()[:300]} (whole log: {self._log_path})"


class _Watchdog:
    """Barks when nothing has moved for so long that nothing will."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._step = 0
        self.feed()

    def feed(self) -> None:
        self._fed_s = time.monotonic()

    def barks(self, step: int) -> bool:
        if step != self._step:
            self._step = step
            self.feed()
        return time.monotonic() - self._fed_s > self._patience_s


class _Lines:
    """JSON lines out of a pipe, without ever waiting longer than asked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)
        self.ended = False

    def read(self, wait_s: float) -> list[dict[str, Any]]:
        if self.ended or not self._selector.select(wait_s):
            return []
        block = os.read(self._descriptor, 2**20)
        self.ended = not block
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._selector.close()
        os.close(self._descriptor)


def rates_from_steps(sums: dict[str, float]) -> Rates | None:
    """Seconds by token: decode from the steps that only decoded, prefill from what the others took beyond that."""
    tokens = sums["mixed_prefill"] + sums["mixed_decode"] + sums["decode_tokens"]
    if not tokens:
        return None
    if not sums["decode_tokens"] or not sums["mixed_prefill"]:
        each = (sums["mixed_s"] + sums["decode_s"]) / tokens
        return Rates(each, each)
    decode = sums["decode_s"] / sums["decode_tokens"]
    prefill = max(0.0, sums["mixed_s"] - decode * sums["mixed_decode"]) / sums["mixed_prefill"]
    return Rates(prefill, decode)


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        pass
