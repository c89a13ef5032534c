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

from serving.engines.machine import Machine
from serving.environment import QUIET_AND_OFFLINE, own_folder
from serving.records import Choice, Completion, EngineConfig, EngineDied, Failure, Rates, Request, Usage
from serving.store.meter import Meter

WORKER = Path(__file__).with_name("vllm_worker.py")
POLL_S = 0.25
START_LIMIT_S = 1800.0  # a large model on a slow disk; a compiled one on a slow CPU
# Beyond what the engine can run at once, so that a finished request is replaced at the very next step.
QUEUE_AHEAD = 1.5


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
    ) -> None:
        self._meter_path = "" if meter is None else str(meter.path.resolve())
        self._command = [python or sys.executable, "-P", str(WORKER)]
        self._settings = vllm_arguments(model, config)
        self.environment = child_environment(config, machine, python)
        self._window = int(config.batching.max_num_seqs * QUEUE_AHEAD) + 1
        self._log_path = log
        self._stop = stop
        self._cache_salt = cache_salt
        self._sums: dict[str, float] | None = None

    def __enter__(self) -> Self:
        self._log = self._log_path.open("ab")
        read_end, write_end = os.pipe()
        command = [*self._command, str(write_end), json.dumps(self._settings), self._meter_path]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=self.environment,
            pass_fds=[write_end], start_new_session=True,
        )  # fmt: skip
        os.close(write_end)
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
        self._lines.close()
        assert self._child.stdin is not None
        _close_quietly(self._child.stdin)
        self._log.close()

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        in_flight: set[int] = set()
        more = not self._stop()  # a stop during start-up leaves an engine that is not ready
        while more or in_flight:
            while more and len(in_flight) < self._window:
                request = next(requests, None)
                more = request is not None
                if request is not None:
                    self._send(request)
                    in_flight.add(request.row)
            for message in self._lines.read(POLL_S):
                completion = self._completion(message)
                if completion.row not in in_flight:
                    raise EngineDied(f"the engine answered row {completion.row}, which is not in flight")
                in_flight.remove(completion.row)
                yield completion
            if self._stop():
                return
            if self._lines.ended and in_flight:
                raise EngineDied(self._last_words(f"with {len(in_flight)} requests in flight"))

    @property
    def rates(self) -> Rates | None:
        """Engine seconds by token, from the steps so far; None before there were any."""
        return rates_from_steps(self._sums) if self._sums else None

    def _await_ready(self) -> None:
        give_up = time.monotonic() + START_LIMIT_S
        while not self._stop():
            if self._lines.read(POLL_S):  # the first line says that it is ready, and nothing else
                return
            if self._lines.ended or time.monotonic() > give_up:
                raise EngineDied(self._last_words("before it was ready"))

    def _send(self, request: Request) -> None:
        assert request.prompt_token_ids is not None, "a local model's requests are tokenized at admission"
        sampling = asdict(request.sampling)
        message = {"row": request.row, "prompt_token_ids": request.prompt_token_ids, "sampling": sampling}
        if self._cache_salt is not None:
            message["cache_salt"] = self._cache_salt
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise EngineDied(self._last_words("while it was being fed")) from None

    def _completion(self, message: dict[str, Any]) -> Completion:
        if failed := message.get("failed"):
            return Completion(failed["row"], failure=Failure(failed["code"], failed["reason"]))
        self._sums = message["steps"]
        done = message["done"]
        return Completion(
            row=done["row"],
            choices=tuple(Choice(**choice) for choice in done["choices"]),
            usage=Usage(done["prompt_tokens"], done["completion_tokens"], done["cached_tokens"]),
            prefill_s=done["prefill_s"],
            decode_s=done["decode_s"],
        )

    def _last_words(self, when: str) -> str:
        code = self._child.wait(timeout=30) if self._lines.ended else "none, it hangs"
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "nothing")
        return f"vLLM ended {when} (exit code {code}): {said.strip()[:300]} (whole log: {self._log_path})"


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


def vllm_arguments(model: Path, config: EngineConfig) -> dict[str, Any]:
    """The one translation of our settings into vLLM's EngineArgs. `config` is settled for the machine."""
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": config.precision.weights,
        "block_size": config.cache.block_tokens,
        "kv_cache_dtype": config.cache.dtype,
        "enable_prefix_caching": config.cache.prefix_caching,
        # A hash that can be made to collide would hand one prompt the cache of another.
        "prefix_caching_hash_algo": "sha256",
        "max_num_seqs": config.batching.max_num_seqs,
        "max_num_batched_tokens": config.batching.max_num_batched_tokens,
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": config.parallelism.tensor,
        "distributed_executor_backend": "uni" if config.parallelism.tensor == 1 else "mp",
        "enforce_eager": not config.compiled,
        "load_format": "safetensors",
        "trust_remote_code": False,
    }
    if config.cache.memory_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(config.cache.memory_gib * 2**30)
    return {name: value for name, value in arguments.items() if value is not None}


def child_environment(config: EngineConfig, machine: Machine, python: str | None) -> dict[str, str]:
    """What the engine's process needs before it starts; none of our secrets among it."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
    environment = {name: value for name, value in os.environ.items() if name in kept}
    environment |= QUIET_AND_OFFLINE
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_HOST_IP": "127.0.0.1"}
    environment |= _own_caches()
    if config.parallelism.tensor == 1:
        # Engine and worker in one process: one import of vLLM instead of three, and nothing left when it is killed.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not config.compiled:
        # vLLM compiles some small functions of its own at their first use, three seconds each, even when eager.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    if not machine.has_gpu:
        environment |= _cpu_environment(config.parallelism.tensor, machine, python)
    return environment


def _own_caches() -> dict[str, str]:
    """What is compiled is kept and run again, so it is kept where nobody else can write."""
    folder = own_folder("vllm")
    if folder is None:
        return {}
    names = {"VLLM_CACHE_ROOT": "", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    return {variable: str(folder / name) for variable, name in names.items()}


def _cpu_environment(ranks: int, machine: Machine, python: str | None) -> dict[str, str]:
    """Intel's OpenMP runtime, and every core bound. On a two-core AVX2 machine that was 2.1 times the speed of vLLM's
    defaults, which keep one core free (2026-11-23); on one with AVX-512 it is 1.0 times (bench/results/lanes.csv)."""
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(_cores_of_rank(machine.cores, ranks))}
    runtime = Path(python or sys.executable).absolute().parent.parent / "lib" / "libiomp5.so"
    if runtime.exists():
        environment["LD_PRELOAD"] = str(runtime)
    return environment


def _cores_of_rank(cores: tuple[int, ...], ranks: int) -> list[str]:
    shares = [cores[rank::ranks] or cores[-1:] for rank in range(ranks)]
    return [",".join(str(core) for core in share) for share in shares]


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
