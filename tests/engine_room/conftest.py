"""Real engines on this machine, one at a time. `make test-engines`; they take some minutes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from serving.engine_config import EngineConfig
from serving.engines.fits import check_fit
from serving.engines.machine import Machine, settled, this_machine
from serving.engines.vllm_engine import HANGS_S, VllmEngine
from serving.environment import settle
from serving.intake.render import ModelRenderer
from serving.models.folder import ModelFolder
from serving.records import Completion, Endpoint, Message, Request, Sampling

ROOT = Path(__file__).parents[2]
FULL = ROOT / "models" / "smollm2-135m-instruct"
KV_GIB = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    engine: VllmEngine

    def answer(self, requests: list[Request]) -> dict[int, Completion]:
        return {done.row: done for done in self.engine.run(iter(requests))}


@pytest.fixture(scope="session")
def machine() -> Machine:
    settle(ROOT / ".gristmill")
    return this_machine()


@contextmanager
def running(
    config: EngineConfig, machine: Machine, log: Path, model: Path = FULL, check: bool = True, hangs_s: float = HANGS_S
) -> Iterator[Running]:
    """An engine as a job would get it; `check` False: on more ranks than there are cores."""
    if config.cache.memory_gib is None:
        config = replace(config, cache=replace(config.cache, memory_gib=KV_GIB))
    asked = settled(replace(config, max_model_len=config.max_model_len or 1024), machine)
    if check:
        check_fit(asked, ModelFolder.open(model), machine)
    with VllmEngine(model, asked, machine, log, lambda: False, None, hangs_s=hangs_s) as engine:
        yield Running(engine)


@pytest.fixture(scope="session")
def render() -> Callable[[str], tuple[int, ...]]:
    folder = ModelFolder.open(FULL)
    renderer = ModelRenderer(folder.tokenizer_json, folder.chat_template, dict(folder.special_tokens))

    def tokens(text: str) -> tuple[int, ...]:
        found = renderer.render(Endpoint.CHAT, (Message("user", text),))[1]
        assert found is not None
        return found

    return tokens


def request(row: int, tokens: tuple[int, ...], sampling: Sampling, adapter: str | None = None) -> Request:
    return Request(row, str(row), Endpoint.CHAT, (Message("user", "as tokens"),), sampling, tokens, adapter)


def texts(answers: dict[int, Completion]) -> dict[int, list[str]]:
    assert not [done.failure for done in answers.values() if done.failure]
    return {row: [choice.text for choice in done.choices] for row, done in answers.items()}
