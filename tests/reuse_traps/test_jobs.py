"""The traps as jobs, reuse at its loosest: none is served, and none comes so far that a certificate is asked.

The embedder here sees no difference at all between the two of a pair, so that no threshold is what stops them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.answer import answer
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import parse_job
from serving.reuse.embed import Vectors
from serving.store.ledger import ask, open_ledger
from tests.reuse_traps.traps import REQUESTS, TEXTS, TRUNCATED, Body, asked

ROOT = Path(__file__).parents[2]
EMBEDDER = ROOT / "models" / "all-minilm-l6-v2"
LOOSEST = 0.8
SEEN_WORDS = 256
REFUSED_WITH = "tools"  # a body that has them is refused, and so is never compared

SHORT = [asked(text) for pair in TEXTS for text in (pair.left, pair.right)]
LONG = [asked(text) for pair in TRUNCATED for text in (pair.left, pair.right)]
AROUND = [body for pair in REQUESTS for body in (pair.left, pair.right)]


class BlindEmbedder:
    """Takes the two texts of each pair for one, and no others."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._place = {text: row // 2 for row, text in enumerate(texts)}
        self._dim = len(texts) // 2

    max_seq_length = SEEN_WORDS

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dim), np.float32)
        vectors[np.arange(len(texts)), [self._place[text] for text in texts]] = 1
        return vectors

    def truncates(self, text: str) -> bool:
        return len(text.split()) > SEEN_WORDS


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are compared even where none of them could be certified."""
    monkeypatch.setattr("flows.stages.can_certify", lambda work, rows: True)


@pytest.fixture
def run_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipt]:
    """Run these requests, each pair of which is two rows that follow each other."""

    def run_these(bodies: Sequence[Body], tenant: str = "a") -> Receipt:
        last = [body["messages"][-1]["content"] for body in bodies]
        monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: BlindEmbedder(last))
        monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="blind", files={}))
        return ran(tmp_path, bodies, "blind", tenant)

    return run_these


def ran(folder: Path, bodies: Sequence[Body], embedder: str, tenant: str = "a") -> Receipt:
    lines = ({"custom_id": f"r{row}", "body": body} for row, body in enumerate(bodies))
    file = folder / f"{tenant}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = {
        "dataset": {"path": str(file)},
        "model": {"full": "echo-model"},
        "engine": {"kind": "echo"},
        "price": {"usd_per_hour": "1"},
        "reuse": {"semantic": True, "min_similarity": LOOSEST, "embedder": embedder},
        "tenant": {"name": tenant},
    }
    return answer(parse_job(job, "job"), folder / "runs", Silent())


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, f"{sql} AND run_id = '{receipt.run.run_id}' ORDER BY row").rows


def test_every_pair_of_texts_is_compared_and_none_is_served(run_blind: Callable[..., Receipt]) -> None:
    receipt = run_blind(SHORT)
    pairs = told(receipt, "SELECT row, other_row FROM pairs WHERE veto IS NOT NULL")
    assert pairs == [(row, row + 1) for row in range(0, len(SHORT), 2)]
    assert receipt.sources == {"engine": len(SHORT)}
    assert told(receipt, "SELECT * FROM near WHERE true") == []


def test_texts_that_the_embedder_does_not_see_whole_are_never_compared(run_blind: Callable[..., Receipt]) -> None:
    receipt = run_blind(LONG)
    assert told(receipt, "SELECT * FROM pairs WHERE true") == []
    assert receipt.sources == {"engine": len(LONG)}


def test_requests_that_agree_only_in_their_last_message_are_never_compared(run_blind: Callable[..., Receipt]) -> None:
    receipt = run_blind(AROUND)
    refused = sum(REFUSED_WITH in body for body in AROUND)
    assert told(receipt, "SELECT * FROM pairs WHERE true") == []
    assert (receipt.counts["refused"], receipt.sources) == (refused, {"engine": len(AROUND) - refused})


def test_what_one_tenant_was_answered_serves_no_other(run_blind: Callable[..., Receipt]) -> None:
    run_blind(SHORT, "a")
    assert run_blind(SHORT, "b").sources == {"engine": len(SHORT)}


def test_a_pair_that_no_veto_holds_would_wait_for_a_certificate(run_blind: Callable[..., Receipt]) -> None:
    """Else the tests above could pass for want of a comparison."""
    receipt = run_blind([asked("what is the height of Everest"), asked("what is height of Everest")])
    assert told(receipt, "SELECT row, other_row, veto FROM pairs WHERE true") == [(0, 1, None)]
    assert len(told(receipt, "SELECT row FROM near WHERE true")) == 1


@pytest.mark.real
def test_the_real_embedder_has_none_of_them_served_either(tmp_path: Path) -> None:
    bodies = [*SHORT, *LONG, *AROUND]
    receipt = ran(tmp_path, bodies, str(EMBEDDER))
    assert set(receipt.sources) == {"engine"}
    compared = told(receipt, "SELECT row FROM pairs WHERE row % 2 = 0 AND other_row = row + 1")
    assert len(TEXTS) / 2 < len(compared) <= len(TEXTS), "most lie nearer than the threshold, but for the long ones"
