"""From a job's engine section to a running engine for one lane."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from serving.config import EngineSection
from serving.engine_config import NO_ADAPTERS, Adapters, EngineConfig
from serving.models.folder import ModelFolder
from serving.records import Engine, Lane
from serving.store.meter import Meter

KEPT_TOKENS = 128  # of the largest block

if TYPE_CHECKING:
    from serving.engines.fork_server import ForkServers
    from serving.engines.machine import Machine


def open_engine(
    section: EngineSection,
    lane: Lane,
    log: Path,
    stop: Callable[[], bool],
    meter: Meter,
    kv_tokens: int | None = None,
    drain: bool = False,
    tenant: str = "default",
    adapters: Adapters = NO_ADAPTERS,
    servers: "ForkServers | None" = None,
) -> AbstractContextManager[Engine]:
    """The engine of a lane; entering the context starts it. Its process, if it has one, writes to `log`, and is forked
    from one of `servers`.

    What it spends it counts on `meter`. `kv_tokens` is how many tokens its KV cache can use at most, where the work is
    known. With `drain`, a server's answers in flight are waited for when the run is stopped. Nothing in a prefix cache
    is shared between tenants.

    Raises:
        CannotRun: a part is too old to be safe, or the machine cannot run these settings.
    """
    from serving.engines.machine import CannotRun
    from serving.environment import outdated

    if old := outdated():
        raise CannotRun(f"{', '.join(old)}; run `make setup`, or install the versions in requirements/")
    if section.kind == "echo":
        from serving.engines.echo import EchoEngine

        fails = frozenset(section.echo_fails)
        return EchoEngine(
            section.echo_s, stop, lambda request: request.custom_id in fails, meter=meter, audit=section.echo_audit
        )
    if section.kind == "http":
        from serving.engines.cache_salt import cache_salt
        from serving.engines.http import HttpEngine
        from serving.engines.openai_api.dialects import DIALECTS

        return HttpEngine(
            base_url=section.base_url,
            model=lane.model,
            api_key_env=section.api_key_env,
            concurrency=section.concurrency,
            timeout_s=section.timeout_s,
            row_timeout_s=section.row_timeout_s,
            max_retries=section.max_retries,
            dialect=DIALECTS[section.server],
            stop=stop,
            drain=drain,
            meter=meter,
            cache_salt=cache_salt(tenant) if section.cache_salt else None,
        )
    from serving.engines.cache_salt import cache_salt
    from serving.engines.vllm_engine import VllmEngine

    model = ModelFolder.open(Path(lane.model))
    config, machine = settled_for(section, lane, model, adapters, kv_tokens)
    return VllmEngine(
        model.path, config, machine, log, stop, section.python, cache_salt(tenant), meter, servers=servers
    )


def warm_up(
    section: EngineSection, lane: Lane, model: ModelFolder, adapters: Adapters, servers: "ForkServers", log: Path
) -> None:
    """Begin to import what the lane's engine will be forked from, while rows are still being read."""
    from serving.engines.vllm_engine import parts_of
    from serving.engines.vllm_environment import child_environment

    config, machine = settled_for(section, lane, model, adapters)
    with log.open("ab") as output:
        for part in parts_of(machine, config.parallelism.data):
            environment = child_environment(config, part, section.python)
            servers.of(section.python, environment, log).start(output.fileno())


def computed_in(section: EngineSection, machine: "Machine") -> str:
    """The type of number that a vLLM computes in on this machine."""
    return machine.fast_dtype if section.dtype == "auto" else section.dtype


def check_engine(section: EngineSection, lane: Lane, model: ModelFolder, adapters: Adapters) -> None:
    """Raises CannotRun if the lane's model cannot run here with these settings. Nothing is loaded."""
    if section.kind == "vllm":
        from serving.engines.fits import check_fit

        config, machine = settled_for(section, lane, model, adapters)
        check_fit(config, model, machine, section.python)


def settled_for(
    section: EngineSection, lane: Lane, model: ModelFolder, adapters: Adapters, kv_tokens: int | None = None
) -> tuple[EngineConfig, "Machine"]:
    """What a lane's engine is made of here. Adapters were made for the full model, so no other lane has them."""
    from serving.engines.machine import kv_bytes_per_number, settled, this_machine
    from serving.models.shape import shape_of

    machine = this_machine()
    config = section.config(adapters if lane.name == "full" else NO_ADAPTERS)
    ready = settled(config, machine)
    if kv_tokens is None:
        return ready, machine
    # vLLM wants room for one sequence of full length, however short the work is, beside a block that it keeps.
    kv_tokens = max(kv_tokens, (section.max_model_len or model.max_model_len) + KEPT_TOKENS)
    return settled(config, machine, kv_tokens * shape_of(model).kv_bytes_per_token(kv_bytes_per_number(ready))), machine
