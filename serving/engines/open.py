"""From a job's engine section to a running engine for one lane."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from serving.config import EngineSection
from serving.records import Engine, Lane


class RunningEngine(Engine, Protocol):
    kv_tokens: int | None  # how many tokens its KV cache holds, where that is known


def open_engine(
    section: EngineSection, lane: Lane, log: Path, stop: Callable[[], bool]
) -> AbstractContextManager[RunningEngine]:
    """The engine of a lane; entering the context starts it. Its process, if it has one, writes to `log`."""
    if section.kind == "echo":
        from serving.engines.echo import EchoEngine

        return EchoEngine(section.echo_s, stop)
    if section.kind == "http":
        from serving.engines.http import HttpEngine

        return HttpEngine(
            base_url=section.base_url,
            model=lane.model,
            api_key_env=section.api_key_env,
            concurrency=section.concurrency,
            timeout_s=section.timeout_s,
            max_retries=section.max_retries,
            stop=stop,
        )
    from serving.engines.machine import settled, this_machine
    from serving.engines.vllm_engine import VllmEngine

    machine = this_machine()
    return VllmEngine(Path(lane.model), settled(section.config, machine), machine, log, stop, section.python)
