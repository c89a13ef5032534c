"""From a job's engine section to a running engine for one lane."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from serving.config import EngineSection
from serving.models.folder import ModelFolder
from serving.records import Engine, Lane


def open_engine(
    section: EngineSection,
    lane: Lane,
    log: Path,
    stop: Callable[[], bool],
    kv_tokens: int | None = None,
    drain: bool = False,
) -> AbstractContextManager[Engine]:
    """The engine of a lane; entering the context starts it. Its process, if it has one, writes to `log`.

    `kv_tokens` is how many tokens its KV cache can use at most, where the work is known. With `drain`, a server's
    answers in flight are waited for when the run is stopped.
    """
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
            drain=drain,
        )
    from serving.engines.machine import bytes_per_number, settled, this_machine
    from serving.engines.vllm_engine import VllmEngine

    machine = this_machine()
    model = ModelFolder.open(Path(lane.model))
    dtype = settled(section.config, machine).precision.weights
    token_bytes = model.kv_bytes_per_token(bytes_per_number(dtype))
    config = settled(section.config, machine, None if kv_tokens is None else kv_tokens * token_bytes)
    return VllmEngine(model.path, config, machine, log, stop, section.python)
