"""The vllm engine: one process, or several side by side, fed continuously from one stream of requests."""

import select
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.engine_config import EngineConfig
from serving.engines.fork_server import ForkServers
from serving.engines.leases import Leases
from serving.engines.machine import Machine
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import child_environment
from serving.engines.vllm_process import POLL_S, VllmProcess
from serving.records import Completion, Load, Rates, Request, StepEvidence
from serving.store.meter import Meter

# Of what the engine can run at once: also where all finish in one step, each is replaced at the very next one.
QUEUE_AHEAD = 2.0
HANGS_S = 300.0  # without a step being begun or a row finished, while rows are in flight


class VllmEngine:
    """A vLLM, `data` parallel times over, for one model. Entering starts it and waits until all of it is ready.

    `stop` is asked several times a second; once it is true, `run` ends and leaves what is in flight. Only prompts of
    the same `cache_salt` share blocks of the KV cache. `meter` has a place for each process. Of the engines that come
    from the same `servers`, all but the first start faster.
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
        servers: ForkServers | None = None,
    ) -> None:
        self._stop = stop
        self._opened = ExitStack()
        # A lone engine is handed each row as it has room; several keep rows together that begin alike.
        self._lease_rows = 1 if config.parallelism.data == 1 else config.batching.max_num_seqs
        if servers is None:
            servers = self._opened.enter_context(ForkServers())
        self.processes = [
            VllmProcess(
                vllm_arguments(model, config),
                servers.of(python, child_environment(config, part, python), log),
                config.adapters,
                log if place == 0 else log.with_suffix(f".{place}.log"),
                "" if meter is None else str(meter.path.resolve()),
                place,
                int(config.batching.max_num_seqs * QUEUE_AHEAD) + 1,
                hangs_s,
                cache_salt,
            )
            for place, part in enumerate(parts_of(machine, config.parallelism.data))
        ]

    def __enter__(self) -> Self:
        with self._opened as opened:
            for process in self.processes:
                process.start()
                opened.callback(process.close)
            for process in self.processes:
                process.await_ready(self._stop)
            self._opened = opened.pop_all()
        self._poll = select.poll()
        for process in self.processes:
            self._poll.register(process.descriptor, select.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()

    def run(self, requests: Iterator[Request | None]) -> Iterator[Completion]:
        if self._stop():  # a stop during start-up leaves an engine that is not ready
            return
        leases = Leases(requests, len(self.processes), self._lease_rows)
        while leases.left or any(process.in_flight for process in self.processes):
            self._fill(leases)
            self._poll.poll(POLL_S * 1000)
            for process in self.processes:
                yield from process.take()
            if self._stop():
                return
            for process in self.processes:
                process.must_live()

    def _fill(self, leases: Leases) -> None:
        """Give each process what it has room for, the emptiest first."""
        places = range(len(self.processes))
        while self.processes[place := max(places, key=lambda place: self.processes[place].room)].room > 0:
            if (request := leases.next_of(place)) is None:
                return
            self.processes[place].give(request)

    @property
    def rates(self) -> Rates | None:
        """Engine seconds by token, from the steps of all processes so far; None before there were any."""
        sums = self._sums
        found = rates_from_steps(sums) if sums else None
        side_by_side = len(self.processes)  # what takes each a second takes all of them together a part of it
        return found and Rates(found.prefill_s_per_token / side_by_side, found.decode_s_per_token / side_by_side)

    @property
    def load(self) -> Load | None:
        sums = self._sums
        return Load(**{part.name: sums[part.name] for part in fields(Load)}) if sums else None

    @property
    def _sums(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for process in self.processes:
            sums.update(process.sums)
        return sums

    @property
    def under_way(self) -> Mapping[int, int]:
        rows = ((process.in_flight, process.under_way.items()) for process in self.processes)
        return {row: tokens for in_flight, told in rows for row, tokens in told if row in in_flight}

    @property
    def evidence(self) -> StepEvidence | None:
        """Of one process: side by side, each slows the others, so that a step of one tells nothing of it alone."""
        return self.processes[0].evidence if len(self.processes) == 1 else None


def parts_of(machine: Machine, parts: int) -> list[Machine]:
    """The machine as each of several processes sees it: cores and GPUs shared out evenly."""
    if parts == 1:
        return [machine]
    cores = [machine.cores[part::parts] or machine.cores[-1:] for part in range(parts)]
    gpus = [machine.gpus[part::parts] for part in range(parts)]
    return [replace(machine, cores=mine, gpus=gpu) for mine, gpu in zip(cores, gpus, strict=True)]


def rates_from_steps(sums: Mapping[str, float]) -> Rates | None:
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
