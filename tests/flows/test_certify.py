"""Near-duplicates share an answer only under a certificate: audited, judged, and run themselves where it fails."""

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.answer import answer, answer_work
from flows.certify import CHAIN
from flows.members import Rows
from flows.open import Work, open_work
from flows.progress import Silent
from flows.receipt import Receipt
from optimizer.choosing import first_choice
from serving.config import parse_job
from serving.engines.echo import EchoEngine
from serving.records import NEAR, Choice, Completion, Failure, Lane, Request, Usage
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.run import all_runs
from serving.store.segments import Chain, Span
from serving.store.verify import verify

PAIRS = 300
FIRST_DELTA = 0.025  # of so few pairs the first look is given half


class Answering(EchoEngine):
    """Answers by the number in a prompt; `differs` says which prompts get another answer than their near-duplicates."""

    differs: Any = staticmethod(lambda prompt: False)

    def _answer(self, request: Request) -> Completion:
        prompt = request.messages[-1].content
        asked.append(request.row)
        text = "other" if self.differs(prompt) else "same"
        return Completion(request.row, (Choice(text, "stop"),), Usage(len(prompt.split()), 1))


asked: list[int] = []


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder(4096))
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="hashes", files={}))


def paired(pairs: int = PAIRS) -> list[str]:
    """Each prompt twice: once with a small word more, which no veto minds."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"{letters[n // 26 % 26]}{letters[n % 26]}{letters[n // 676]}word" for n in range(pairs)]
    return [
        text
        for name in names
        for text in (f"{name} explains why {name}s are blue", f"{name} explains why the {name}s are blue")
    ]


def ran(
    folder: Path, prompts: list[str], monkeypatch: pytest.MonkeyPatch, differs: Any = None, **quality: Any
) -> Receipt:
    lines = (
        {"custom_id": f"r{n}", "body": {"messages": [{"role": "user", "content": text}]}}
        for n, text in enumerate(prompts)
    )
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(Answering, "differs", staticmethod(differs or (lambda prompt: False)))
    monkeypatch.setattr("serving.engines.echo.EchoEngine", Answering)
    job = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": "echo-model"},
        "engine": {"kind": "echo"},
        "price": {"usd_per_hour": "3600"},
        "reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"},
        "quality": {"repeats": 0, **quality},
    }
    return answer(parse_job(job, "job"), folder / "runs", Silent())


def audits(pairs: int, max_wrong: float) -> int:
    choice = first_choice(np.ones(pairs, np.bool_), max_wrong, FIRST_DELTA)
    assert choice is not None
    return choice.audits


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, sql).rows


def test_near_duplicates_are_shared_once_enough_of_them_are_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = ran(tmp_path, paired(), monkeypatch, max_wrong=0.05)
    [(rows, audited, wrong, certified)] = told(receipt, "SELECT rows, audited, wrong, certified FROM certificates")
    assert (rows, wrong, certified) == (PAIRS, 0, True)
    assert audited == audits(PAIRS, 0.05)
    assert receipt.sources == {"engine": PAIRS + audited, "semantic": PAIRS - audited}
    assert len(asked) == PAIRS + audited
    assert verify(receipt.run).rows == 2 * PAIRS


def test_where_audits_find_wrong_answers_all_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = ran(tmp_path, paired(), monkeypatch, differs=lambda prompt: " the " in prompt, max_wrong=0.05)
    [(wrong, audited, certified)] = told(receipt, "SELECT wrong, audited, certified FROM certificates")
    assert (wrong, certified) == (audited, False)
    assert receipt.sources == {"engine": 2 * PAIRS}
    assert Counter(asked).most_common(1)[0][1] == 1, "no row is run twice"
    answers = [json.loads(line) for line in (receipt.run.export / "results.jsonl").read_text().splitlines()]
    texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in answers]
    assert texts == ["same", "other"] * PAIRS


def test_too_few_near_duplicates_for_a_certificate_are_run_and_none_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = ran(tmp_path, paired(10), monkeypatch, max_wrong=0.02)
    assert told(receipt, "SELECT * FROM certificates") == []
    assert told(receipt, "SELECT count(*) FROM looks") == [(0,)]
    assert receipt.sources == {"engine": 20}


def test_rows_that_equal_a_near_duplicate_share_what_it_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = paired() + paired()[1::2]
    receipt = ran(tmp_path, prompts, monkeypatch, max_wrong=0.05)
    assert sum(receipt.sources.values()) == 3 * PAIRS
    assert told(receipt, "SELECT count(*) FROM certificates WHERE certified") == [(1,)]
    assert receipt.sources["engine"] == len(asked) < PAIRS + 90
    assert verify(receipt.run).rows == 3 * PAIRS


def test_one_query_counts_the_certificate_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = ran(
        tmp_path,
        paired(),
        monkeypatch,
        differs=lambda prompt: prompt.startswith("a") and " the " in prompt,
        max_wrong=0.2,
    )
    told_of = "SELECT rows, audited, wrong, most_wrong, most_wrong, certified FROM certificates"
    [certificate] = told(receipt, told_of)
    anew = named_queries()["certificate"].sql.removesuffix(";\n")
    columns = "rows, audited, wrong, most_wrong, said, certified"
    assert told(receipt, f"SELECT {columns} FROM ({anew})") == [certificate]
    assert certificate[2] > 0


def test_a_sample_of_a_job_is_no_reason_to_judge_it_or_to_run_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.flows.test_certify.answer",
        lambda job, runs, progress: answer_work(open_work(job, runs, progress), sample_rows=5),
    )
    receipt = ran(tmp_path, paired(), monkeypatch, max_wrong=0.05)
    assert 0 < len(asked) <= 5  # those of the sample that wait for a certificate go on waiting
    assert told(receipt, "SELECT * FROM certificates") == []


def test_a_forecast_counts_all_near_duplicates_as_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foretold: list[int] = []

    def note(work: Work, lanes: list[tuple[Lane, Rows]]) -> None:
        foretold.extend(len(rows) for _, rows in lanes)

    monkeypatch.setattr("flows.answer.plan_ahead", note)
    receipt = ran(tmp_path, paired(), monkeypatch, max_wrong=0.05)
    assert foretold == [2 * PAIRS]
    assert receipt.sources["engine"] < 2 * PAIRS


class Broken(BaseException):
    """As a kill would, it ends everything on the spot."""


@pytest.mark.parametrize("place", ["certify", "share"])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_run_that_was_killed_goes_on_with_the_same_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, wrong: bool
) -> None:
    differs = (lambda prompt: " the " in prompt) if wrong else None
    monkeypatch.setattr("flows.settlement.COMMIT_ROWS", 16)
    monkeypatch.setattr("flows.settlement.SEAL_ROWS", 64)
    write, count = Chain.seal, iter(range(1000))

    def kills(chain: Chain, *spans: Span, **rest: Any) -> None:
        if chain._next.chain == CHAIN and next(count) == 2:
            raise Broken
        write(chain, *spans, **rest)

    def kill(*_: Any) -> Any:
        raise Broken

    with monkeypatch.context() as patch, pytest.raises(Broken) if place == "certify" or not wrong else nullcontext():
        patch.setattr(Chain, "seal", kills) if place == "share" else patch.setattr("flows.looks.Certificate", kill)
        ran(tmp_path, paired(), monkeypatch, differs, max_wrong=0.05)
    [run] = all_runs(tmp_path / "runs")
    drawn_before = (run.look(NEAR, 0).parent / "look-near-0-looks-00000.parquet").read_bytes()
    receipt = ran(tmp_path, paired(), monkeypatch, differs, max_wrong=0.05)
    assert (run.look(NEAR, 0).parent / "look-near-0-looks-00000.parquet").read_bytes() == drawn_before
    assert receipt.counts["expired"] == 0
    assert sum(receipt.sources.values()) == 2 * PAIRS
    assert receipt.sources.get("semantic", 0) == (0 if wrong else PAIRS - audits(PAIRS, 0.05))
    assert verify(receipt.run).rows == 2 * PAIRS
    assert Counter(asked).most_common(1)[0][1] == 1


def test_a_near_duplicate_whose_representative_fails_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Answering):
        def _answer(self, request: Request) -> Completion:
            if request.row < 20:
                asked.append(request.row)
                return Completion(request.row, failure=Failure("E_X", "no"))
            return super()._answer(request)

    monkeypatch.setattr("serving.engines.echo.EchoEngine", Failing)
    monkeypatch.setattr("tests.flows.test_certify.Answering", Failing)
    receipt = ran(tmp_path, paired(), monkeypatch, max_wrong=0.05)
    assert receipt.counts["failed"] == 20  # both of ten pairs
    assert receipt.counts["answered"] == 2 * PAIRS - 20
    assert told(receipt, "SELECT rows, wrong FROM certificates WHERE look = 0") == [(PAIRS - 10, 0)]
    assert verify(receipt.run).rows == 2 * PAIRS
