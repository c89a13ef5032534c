"""The full model judges what its quantized variant or a near-duplicate would be given: in its own engine, at a cost
that is booked, and only where it can tell answers apart."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.answer import answer
from flows.open import open_work
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import BadJob, parse_job
from serving.engines.echo import EchoEngine
from serving.models.folder import ModelFolder
from serving.records import Choice, Completion, EngineDied, Request, Usage
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import ask, open_ledger
from serving.store.meter import Meter
from serving.store.verify import verify
from tests.flows.test_certify import PAIRS, paired
from tests.flows.test_lane import Bench

ROWS = 600
QUESTION = re.compile(r"Answer 1:\n\n(.*)\n\nAnswer 2:\n\n(.*)\n\nDo answer 1", re.S)
Verdict = Callable[[str, str], str]


def bare(text: str) -> str:
    return text.removeprefix("Well, ")


def sees(one: str, other: str) -> str:
    return "Yes" if bare(one) == bare(other) else "No"


class TwoModels(EchoEngine):
    """The quantized one words every answer otherwise; the full one also judges."""

    lane = "full"
    verdict: Verdict = staticmethod(sees)
    judging_kills = False

    def _answer(self, request: Request) -> Completion:
        prompt = request.messages[-1].content
        if asked := QUESTION.search(prompt):
            assert self.lane == "full"
            if self.judging_kills:
                raise EngineDied("killed")
            return Completion(request.row, (Choice(self.verdict(*asked.groups()), "length"),), Usage(40, 1))
        own = f"answer to {prompt.split()[-1]}"
        return Completion(
            request.row, (Choice(f"Well, {own}" if self.lane == "quantized" else own, "stop"),), Usage(5, 3)
        )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipt]:
    def ran(verdict: Verdict = sees, judging_kills: bool = False, **price: str) -> Receipt:
        def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
            engine = TwoModels(stop=stop, meter=meter)
            engine.lane, engine.verdict, engine.judging_kills = lane.name, verdict, judging_kills  # type: ignore[method-assign]
            return engine

        monkeypatch.setattr("flows.lane.open_engine", opened)
        sections = {
            "model": {"full": "large", "quantized": "small"},
            "route": {"to_quantized": "certified"},
            "quality": {"judge": "model", "max_wrong": 0.05, "repeats": 0},
            **({"price": price} if price else {}),
        }
        return answer(
            Bench(tmp_path, [f"prompt {row}" for row in range(ROWS)], **sections).job, tmp_path / "runs", Silent()
        )

    return ran


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, sql).rows


def test_what_the_full_model_calls_the_same_is_served_however_it_is_worded(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert told(receipt, "SELECT wrong, certified FROM certificates") == [(0, True)]
    [(served,)] = told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%Well, %'")
    assert served > ROWS / 2
    assert verify(receipt.run).rows == ROWS


def test_its_verdicts_are_an_overhead_of_the_full_lane(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert told(receipt, "SELECT kind, lane, sum(tokens) > 0 FROM overheads WHERE kind = 'judging' GROUP BY ALL") == [
        ("judging", "full", True)
    ]
    [(baseline, bill, saved)] = told(
        receipt, "SELECT baselines.usd, bills.usd, (SELECT sum(saved_usd) FROM savings) FROM baselines, bills"
    )
    assert baseline - bill == saved


def test_what_it_judged_and_what_it_was_tried_by_is_in_the_ledger(run: Callable[..., Receipt]) -> None:
    receipt = run()
    [(audited,)] = told(receipt, "SELECT audited FROM certificates")
    assert told(receipt, "SELECT count(*) FROM trials WHERE choices LIKE '%Well, %'") == [(audited,)]
    [(controls, called_same)] = told(receipt, "SELECT count(*), count(*) FILTER (called_same) FROM controls")
    assert (controls, called_same) == (min(100, audited), 0)


def test_one_that_calls_everything_the_same_certifies_nothing(run: Callable[..., Receipt]) -> None:
    receipt = run(verdict=lambda one, other: "Yes")
    assert told(receipt, "SELECT count(*) FROM certificates WHERE certified") == [(0,)]
    assert told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%Well, %'") == [(0,)]
    assert told(receipt, "SELECT bool_and(called_same) FROM controls") == [(True,)]


def test_an_engine_that_dies_of_judging_leaves_a_run_that_goes_on(run: Callable[..., Receipt]) -> None:
    with pytest.raises(EngineDied):
        run(judging_kills=True)
    receipt = run()
    assert told(receipt, "SELECT wrong, certified FROM certificates") == [(0, True)]
    assert verify(receipt.run).rows == ROWS
    [(audits,)] = told(receipt, "SELECT count(*) FROM overheads WHERE kind = 'audit'")
    assert audits == 1, "what the quantized model answered for the audit is kept"


def test_a_budget_of_tokens_is_not_passed_by_judging(run: Callable[..., Receipt]) -> None:
    receipt = run(input_usd_per_mtok="1", output_usd_per_mtok="1")
    [(judging,)] = told(receipt, "SELECT sum(usd) FROM overheads WHERE kind = 'judging'")
    [(tokens,)] = told(receipt, "SELECT sum(tokens) FROM overheads WHERE kind = 'judging'")
    assert float(judging) == pytest.approx(tokens * 1e-6)


def test_it_judges_near_duplicates_in_the_engine_that_answered_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder(4096))
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="hashes", files={}))
    starts = []

    def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
        starts.append(lane.name)
        return Wordy(stop=stop, meter=meter)

    monkeypatch.setattr("flows.lane.open_engine", opened)
    sections = {
        "reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"},
        "quality": {"judge": "model", "max_wrong": 0.05, "repeats": 20},
    }
    receipt = answer(Bench(tmp_path, paired(), **sections).job, tmp_path / "runs", Silent())
    assert told(receipt, "SELECT rows, wrong, certified FROM certificates") == [(PAIRS, 0, True)]
    assert starts == ["full"]
    assert receipt.sources["semantic"] > PAIRS / 2


class Wordy(TwoModels):
    """Answers by what a prompt is about, and says a word more to every other near-duplicate."""

    def _answer(self, request: Request) -> Completion:
        prompt = request.messages[-1].content
        if QUESTION.search(prompt):
            return TwoModels._answer(self, request)
        text = f"{'Well, ' if ' the ' in prompt else ''}about {prompt.split()[0]}"
        return Completion(request.row, (Choice(text, "stop"),), Usage(5, 3))


def test_a_base_model_is_no_judge(tmp_path: Path) -> None:
    folder = ModelFolder.open(Path("models/smollm2-135m-instruct"))
    assert folder.chat_template is not None
    bare = tmp_path / "base"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(folder.path / name, bare / name)
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    job = {
        "dataset": {"path": str(tmp_path / "in.jsonl")},
        "model": {"full": str(bare)},
        "reuse": {"semantic": True},
        "quality": {"judge": "model"},
        "price": {"usd_per_hour": "1"},
    }
    with pytest.raises(BadJob, match="has no chat template, and cannot be asked"):
        open_work(parse_job(job, "job"), tmp_path / "runs", Silent())
