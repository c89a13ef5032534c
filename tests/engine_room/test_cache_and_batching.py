"""The KV cache and the batch: what they save is measured, what they do is the same answers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import Machine
from serving.records import Completion, Request, Sampling
from tests.engine_room.conftest import request, running, texts

pytestmark = pytest.mark.engines

Render = Callable[[str], tuple[int, ...]]
SHARED = " ".join(f"Rule {n}: answer in one short sentence and be kind." for n in range(20))
ROWS = 12
SHORT = Sampling(max_tokens=8)


def batch(render: Render) -> list[Request]:
    return [request(row, render(f"{SHARED} What is {row} plus {row}?"), SHORT) for row in range(ROWS)]


@pytest.fixture(scope="module")
def plain(
    machine: Machine, render: Render, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[int, Completion], dict[int, Completion]]:
    """The same batch twice in an engine as it comes: one token at a time in flight, then all at once."""
    with running(EngineConfig(), machine, tmp_path_factory.mktemp("plain") / "log") as engine:
        one_by_one: dict[int, Completion] = {}
        for asked in batch(render):
            one_by_one |= engine.answer([asked])
        return one_by_one, engine.answer(batch(render))


def test_a_shared_beginning_is_computed_once(
    plain: tuple[dict[int, Completion], dict[int, Completion]], render: Render
) -> None:
    """Blocks of 32 tokens: what two prompts share is found up to its last whole block."""
    first, second = render(f"{SHARED} What is 0 plus 0?"), render(f"{SHARED} What is 1 plus 1?")
    shared = next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    one_by_one, _ = plain
    assert one_by_one[0].usage.cached_tokens == 0
    assert {done.usage.cached_tokens for row, done in one_by_one.items() if row} == {shared // 32 * 32}


def test_a_prompt_seen_before_is_found_whole(
    plain: tuple[dict[int, Completion], dict[int, Completion]], render: Render
) -> None:
    """All but the last token, which must be computed to say what follows it."""
    _, again = plain
    lengths = {asked.row: len(asked.prompt_token_ids or ()) for asked in batch(render)}
    assert {row: done.usage.cached_tokens for row, done in again.items()} == {
        row: (length - 1) // 32 * 32 for row, length in lengths.items()
    }


def test_queue_prefill_and_decode_take_time(
    plain: tuple[dict[int, Completion], dict[int, Completion]],
) -> None:
    for done in plain[1].values():
        assert done.queue_s is not None
        assert done.queue_s >= 0
        assert done.prefill_s is not None
        assert done.prefill_s > 0
        assert done.decode_s is not None
        assert done.decode_s > 0


def test_prefill_in_chunks_and_without_a_cache_gives_the_same_answers(
    plain: tuple[dict[int, Completion], dict[int, Completion]], machine: Machine, render: Render, tmp_path: Path
) -> None:
    """Steps of 64 tokens cut each prompt of some 300 into five."""
    config = EngineConfig(cache=PagedCache(prefix_caching=False), batching=Batching(16, 64))
    with running(config, machine, tmp_path / "log") as engine:
        chunked = engine.answer(batch(render))
        steps = engine.engine.processes[0].steps
    assert texts(chunked) == texts(plain[0])
    assert {done.usage.cached_tokens for done in chunked.values()} == {0}
    assert steps >= sum(len(asked.prompt_token_ids or ()) for asked in batch(render)) / 64
