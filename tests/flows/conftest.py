"""A job over the echo engine that is open and held, up to its lanes: for the tests of what a lane is made of."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.decisions import DECISIONS
from flows.open import Work, open_work
from flows.progress import Silent
from flows.settlement import book_the_past
from serving.config import parse_job
from serving.reuse.embed import HashEmbedder

Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a job of these prompts as its writer; a second time it is the same run, resumed."""

    @contextmanager
    def open_these(*prompts: str, **sections: Any) -> Iterator[Work]:
        lines = (
            {"custom_id": f"r{row}", "body": {"messages": [{"role": "user", "content": prompt}]}}
            for row, prompt in enumerate(prompts)
        )
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = {
            "dataset": {"path": str(tmp_path / "in.jsonl")},
            "model": {"full": "echo-model", "quantized": "echo-int8"},
            "engine": {"kind": "echo"},
            "price": {"usd_per_hour": "3600"},
        }
        work = open_work(parse_job(settings | sections, "job"), tmp_path / "runs", Silent())
        with work.held():
            book_the_past(work)
            for stage in DECISIONS:
                stage(work)
            yield work

    return open_these


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings under which "is the sky blue" and "is sky blue" are near-duplicates, by an embedder without a model."""
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder())
    monkeypatch.setattr("flows.stages.can_certify", lambda work, rows: True)  # of ever so few
    no_model = SimpleNamespace(fingerprint="hashes", files={})
    monkeypatch.setattr("flows.open.open_embedder", lambda path: no_model)
    return {"reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"}}
