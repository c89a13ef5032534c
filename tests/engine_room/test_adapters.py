"""LoRA: the row chooses the adapter, and only its rows hear it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine_config import Adapters, EngineConfig
from serving.engines.machine import Machine
from serving.models.adapter import AdapterFolder, reserved_rank
from serving.records import Sampling
from tests.engine_room.checkpoints import random_adapter
from tests.engine_room.conftest import FULL, request, running, texts

pytestmark = pytest.mark.engines

Render = Callable[[str], tuple[int, ...]]


def test_an_adapter_changes_the_rows_that_name_it_and_no_others(
    machine: Machine, render: Render, tmp_path: Path
) -> None:
    folders = {name: AdapterFolder.open(random_adapter(tmp_path / name, FULL, seed=seed)) for name, seed in
               (("one", 1), ("two", 2))}  # fmt: skip
    adapters = Adapters(tuple((name, str(folder.path)) for name, folder in folders.items()),
                        reserved_rank(list(folders.values())), at_once=2)  # fmt: skip
    prompts = [render(f"Say the number {n} in words.") for n in range(4)]
    short = Sampling(max_tokens=10)
    with running(EngineConfig(), machine, tmp_path / "plain.log") as engine:
        plain = texts(engine.answer([request(row, tokens, short) for row, tokens in enumerate(prompts)]))
    named = (None, "one", "two")
    asked = [request(4 * which + row, tokens, short, name) for which, name in enumerate(named)
             for row, tokens in enumerate(prompts)]  # fmt: skip
    with running(EngineConfig(adapters=adapters), machine, tmp_path / "adapted.log") as engine:
        found = texts(engine.answer(asked))
    by_name = {name: [found[4 * which + row] for row in range(4)] for which, name in enumerate(named)}
    assert by_name[None] == [plain[row] for row in range(4)]
    assert all(by_name[name][row] != plain[row] for name in ("one", "two") for row in range(4))
    assert by_name["one"] != by_name["two"]
