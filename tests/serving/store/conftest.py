"""A real run of the echo engine with rows of every kind, made once; tests that change it work on a copy."""

import json
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.answer import answer
from flows.progress import Silent
from serving.config import parse_job
from serving.engines.echo import EchoEngine
from serving.records import Choice, Usage
from serving.store.meter import Meter
from serving.store.run import Run, all_runs
from tests.settled import Settled

CHAT = {"method": "POST", "url": "/v1/chat/completions"}


def lines() -> Iterator[str]:
    """Seven rows: two that share an answer, a third one, a completion, one that fails, two that are refused."""
    for custom_id, text in (("a", "the cat sat"), ("b", "the dog ran"), ("a-again", "the cat sat"), ("f", "fail me")):
        yield json.dumps({"custom_id": custom_id, **CHAT, "body": {"messages": [{"role": "user", "content": text}]}})
    yield json.dumps({"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "one two three", "max_tokens": 2}})
    yield json.dumps({"custom_id": "refused", **CHAT, "body": {"messages": []}})
    yield "{"


def fails_f(section: Any, lane: Any, log: Path, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
    return EchoEngine(stop=stop, fails=lambda request: request.custom_id == "f", meter=meter)


@pytest.fixture(scope="session")
def runs_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "in.jsonl").write_text("\n".join(lines()) + "\n")
    job = parse_job(
        {
            "dataset": {"path": str(folder / "in.jsonl")},
            "model": {"full": "echo-model"},
            "engine": {"kind": "echo"},
            "price": {"usd_per_hour": "3600"},
        },
        "job",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.lane.open_engine", fails_f)
        answer(job, folder / "runs", Silent())
    return folder / "runs"


@pytest.fixture
def runs(runs_made_once: Path, tmp_path: Path) -> Path:
    """A copy of the runs folder that the test may spoil."""
    return Path(shutil.copytree(runs_made_once, tmp_path / "runs"))


@pytest.fixture
def run(runs: Path) -> Run:
    [only] = all_runs(runs)
    return only


@pytest.fixture
def settled() -> Settled:
    """A row that has left its run; tests replace what they look at."""
    return Settled(
        row=0,
        custom_id="a",
        answered_by=0,
        choices=(Choice("the cat", "stop"),),
        usage=Usage(3, 2, 1),
        engine_s=0.5,
        usd=Decimal("0.000000000007"),
        prefill_s=0.1,
        decode_s=0.2,
    )
