"""Output tokens a second of a full model and a quantized one, through the engine, in one run on one machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engine_config import EngineConfig, PagedCache
from serving.engines.machine import Machine, settled
from serving.engines.vllm_engine import VllmEngine
from serving.models.sample import Prompt
from serving.records import Endpoint, EngineDied, Request, Sampling

REQUESTS = 64  # what it takes to keep the engine's batch full; rows are asked again until there are so many
ROUNDS = 3
KV_GIB = 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    full_output_tokens_per_s: float
    output_tokens_per_s: float


def measure_speed(full: Path, quantized: Path, prompts: Sequence[Prompt], machine: Machine, scratch: Path) -> Speed:
    """Medians over rounds; an engine is started for each model in turn.

    Raises:
        EngineDied: an engine cannot run its model here; the message has its last words.
    """
    # The quantized one first: where it cannot run, the other need not be waited for.
    pace, full_pace = (_tokens_per_s(model, prompts, machine, scratch) for model in (quantized, full))
    return Speed(full_pace, pace)


def _tokens_per_s(model: Path, prompts: Sequence[Prompt], machine: Machine, scratch: Path) -> float:
    config = replace(EngineConfig(), cache=PagedCache(memory_gib=KV_GIB), max_model_len=_room(prompts))
    engine = VllmEngine(model, settled(config, machine), machine, scratch / "engine.log", lambda: False, None)
    with engine:
        rounds = sorted(_round(engine, prompts) for _ in range(ROUNDS))
    return rounds[ROUNDS // 2]


def _room(prompts: Sequence[Prompt]) -> int:
    return max(len(prompt.token_ids) + prompt.max_tokens for prompt in prompts) + 1


def _round(engine: VllmEngine, prompts: Sequence[Prompt]) -> float:
    requests = [_request(number, prompts[number % len(prompts)]) for number in range(REQUESTS)]
    began, tokens = time.monotonic(), 0
    for done in engine.run(iter(requests)):
        if done.failure is not None:
            raise EngineDied(f"{done.failure.code}: {done.failure.reason}")
        tokens += done.usage.completion_tokens
    return tokens / (time.monotonic() - began)


def _request(number: int, prompt: Prompt) -> Request:
    sampling = Sampling(max_tokens=prompt.max_tokens)
    return Request(number, str(number), Endpoint.COMPLETION, (), sampling, prompt.token_ids)
