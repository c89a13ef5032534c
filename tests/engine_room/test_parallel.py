"""One model over several processes says what it says in one."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.engine_config import EngineConfig, Parallelism
from serving.engines import vllm_engine
from serving.engines.machine import CannotRun, Machine
from serving.engines.vllm_environment import child_environment
from serving.records import Request, Sampling
from tests.engine_room.checkpoints import random_llama
from tests.engine_room.conftest import request, running, texts

pytestmark = pytest.mark.engines


def batch() -> list[Request]:
    """Tokens by a rule: what they mean is nothing to random weights."""
    prompts = [tuple((37 * row + 11 * place) % 40_000 + 3 for place in range(5 + row)) for row in range(12)]
    return [request(row, tokens, Sampling(max_tokens=12)) for row, tokens in enumerate(prompts)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By heads: 8 with 4 KV heads, and 9 with 3."""
    folder = tmp_path_factory.mktemp("small")
    return {8: random_llama(folder / "eight", 8, 4), 9: random_llama(folder / "nine", 9, 3)}


@pytest.fixture(scope="module")
def alone(small: dict[int, Path], machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> dict[int, object]:
    found = {}
    for heads, model in small.items():
        with running(EngineConfig(), machine, tmp_path_factory.mktemp("alone") / "log", model) as engine:
            found[heads] = texts(engine.answer(batch()))
    return found


@pytest.mark.parametrize(
    ("heads", "parallel"), [(8, Parallelism(pipeline=2)), (8, Parallelism(tensor=2)), (9, Parallelism(tensor=3))]
)
def test_ranks_together_say_what_one_process_says(
    heads: int,
    parallel: Parallelism,
    small: dict[int, Path],
    alone: dict[int, object],
    machine: Machine,
    tmp_path: Path,
) -> None:
    crowded = replace(machine, cores=(*machine.cores, *machine.cores)[: max(2, parallel.ranks)])
    config = EngineConfig(parallelism=parallel)
    with running(config, crowded, tmp_path / "log", small[heads], check=False) as engine:
        assert texts(engine.answer(batch())) == alone[heads]
        seen = engine.engine.evidence
    assert seen is not None
    assert seen.totals[1] == sum(len(asked.prompt_token_ids or ()) for asked in batch())


def test_steps_in_a_process_of_their_own_are_the_same_and_seen(
    small: dict[int, Path],
    alone: dict[int, object],
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where nothing waits for rows to be read and told."""
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    monkeypatch.setattr(vllm_engine, "child_environment", lambda *of: child_environment(*of) | apart)
    with running(EngineConfig(), machine, tmp_path / "log", small[8]) as engine:
        assert texts(engine.answer(batch())) == alone[8]
        seen = engine.engine.evidence
    assert seen is not None
    assert seen.totals[1] == sum(len(asked.prompt_token_ids or ()) for asked in batch())


def test_three_ranks_for_eight_heads_are_refused_before_anything_starts(
    small: dict[int, Path], machine: Machine, tmp_path: Path
) -> None:
    many = replace(machine, cores=tuple(range(8)))
    with (
        pytest.raises(CannotRun, match=r"does not divide the 8 heads and 4 KV heads of eight; use 2"),
        running(EngineConfig(parallelism=Parallelism(3)), many, tmp_path / "log", small[8]),
    ):
        pass
