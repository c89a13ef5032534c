"""Near-duplicates are looked for only while they can pay, and what they are expected to save is held against it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from flows import paying
from flows.answer import answer
from flows.decisions import DECISIONS
from flows.forecast import engine_of
from flows.lane import lanes_to_run
from flows.members import most_pending_rows, pending_rows
from flows.open import Work, open_work
from flows.plan import plan_ahead
from flows.progress import Silent
from flows.receipt import Receipt, take_receipt
from optimizer.collapse import Pair
from serving.config import Job, parse_job
from serving.engines.echo import EchoEngine
from serving.engines.measured import Measured, learn
from serving.environment import STATE
from serving.records import Choice, Completion, Request
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import ask, open_ledger
from serving.store.predictions import write_prediction
from tests.cli.test_plan import MODEL, SEEN, a_forecast

PAIRS = 300


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder(4096))
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="hashes", files={}))
    monkeypatch.setenv(STATE, str(tmp_path / ".gristmill"))


def paired() -> list[str]:
    """Each prompt twice: once with a small word more, which no veto minds."""
    names = [f"{''.join(letters)}word" for letters in itertools.islice(itertools.product("abcdefgh", repeat=3), PAIRS)]
    return [f"{name} explains why {the}{name}s are blue" for name in names for the in ("", "the ")]


def job(folder: Path, engine: dict[str, Any], model: str, max_wrong: float, prompts: list[str]) -> Job:
    lines = (
        {"custom_id": f"r{place}", "body": {"messages": [{"role": "user", "content": text}]}}
        for place, text in enumerate(prompts)
    )
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return parse_job(
        {
            "dataset": {"path": str(folder / "in.jsonl")},
            "model": {"full": model},
            "engine": engine,
            "price": {"usd_per_hour": "3600"},
            "reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"},
            "quality": {"repeats": 0, "max_wrong": max_wrong},
        },
        "job",
    )


def decided(
    folder: Path, known: bool = True, max_wrong: float = 0.05, prompts: list[str] | None = None
) -> tuple[Work, Heard]:
    """A job for vLLM up to its first engine; that engine is known here, if so."""
    heard = Heard()
    local = job(
        folder, {"kind": "vllm", "max_num_seqs": 8, "max_model_len": 512}, str(MODEL), max_wrong, prompts or paired()
    )
    work = open_work(local, folder / "runs", heard)
    if known:
        answers = tuple((35, 256, 5 + number % 20) for number in range(64))
        measured = Measured(SEEN, 10.5, 18.0, 4.0, {work.facts["input"]["sha256"]: answers})
        learn(engine_of(work, work.job.lanes["full"]), measured)
    with work.held():
        for stage in DECISIONS:
            stage(work)
    return work, heard


def pairs_of(work: Work) -> list[Pair]:
    return [pair for table in work.run.stage(work.run.collapsed).tables("pairs") for pair in table.to_pylist()]


def make_slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Each look at the clock is so much later than the one before."""
    ticks = itertools.count(0.0, seconds)
    monkeypatch.setattr(paying, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


def test_what_near_duplicates_save_is_their_part_of_what_running_costs_less_embedding(tmp_path: Path) -> None:
    work, heard = decided(tmp_path, max_wrong=0.1)
    lanes = [(lane, most_pending_rows(work, lane)) for lane in lanes_to_run(work)]
    told = plan_ahead(work, lanes)
    assert told is not None
    found = told.near_saved_usd
    assert found is not None
    [(full, rows)] = lanes
    fewer = len(rows) - len(pending_rows(work, full))
    assert fewer > PAIRS / 2
    cost = float(work.run.stages_usd())
    assert cost > 0
    engine_usd = told.seconds.value - told.lanes[0].start_up_s.value  # at a dollar a second
    assert found.value == pytest.approx(engine_usd * fewer / len(rows) - cost)
    assert found.low_90 < found.value < found.high_90
    assert any(f"near-duplicates save ${found.value:.6f} of it" in line for line in heard.lines)


def test_where_no_two_prompts_are_near_nothing_is_expected_of_it(tmp_path: Path) -> None:
    work, _ = decided(tmp_path, prompts=paired()[::2])
    told = plan_ahead(work, [(lane, most_pending_rows(work, lane)) for lane in lanes_to_run(work)])
    assert told is not None
    assert told.near_saved_usd is None


def test_embedding_that_costs_more_than_it_could_save_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_slow(monkeypatch, 10_000.0)
    work, heard = decided(tmp_path)
    assert not pairs_of(work)
    assert any("near-duplicates are not looked for: embedding would cost $" in line for line in heard.lines)
    assert work.run.spent_usd() > 0, "what was embedded until then is booked"


def test_embedding_that_can_pay_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_slow(monkeypatch, 0.001)
    work, heard = decided(tmp_path)
    assert len(pairs_of(work)) >= PAIRS
    assert not [line for line in heard.lines if "not looked for" in line]


def test_nothing_is_given_up_for_an_engine_that_has_not_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_slow(monkeypatch, 10_000.0)
    work, _ = decided(tmp_path, known=False)
    assert len(pairs_of(work)) >= PAIRS


class Same(EchoEngine):
    """Says one thing to whatever it is asked."""

    def _answer(self, request: Request) -> Completion:
        return structs.replace(super()._answer(request), choices=(Choice("same", "stop"),))


def test_what_was_expected_of_them_is_held_against_what_they_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engines.echo.EchoEngine", Same)
    told = job(tmp_path, {"kind": "echo", "echo_s": 0.001}, "echo-model", 0.1, paired())
    receipt: Receipt = answer(told, tmp_path / "runs", Silent())
    assert receipt.sources.get("semantic", 0) > PAIRS / 2
    expected = a_forecast(1.0)
    write_prediction(receipt.run, "plan", replace(expected, near_saved_usd=expected.usd))
    with open_ledger(tmp_path / "runs") as ledger:
        [(measured, predicted)] = ask(
            ledger, "SELECT measured, predicted FROM reconciled WHERE factor = 'near_saved_usd'"
        ).rows
        whole = dict(ask(ledger, "SELECT factor, measured FROM reconciled WHERE lane IS NULL").rows)
        steps = dict(ask(ledger, "SELECT step, saved_usd FROM savings").rows)
        [(bill, seconds)] = ask(
            ledger, "SELECT bills.usd, sum(engine_s + start_up_s) FROM bills JOIN lanes USING (run_id) GROUP BY ALL"
        ).rows
    assert predicted == 1.0
    assert measured == pytest.approx(float(steps["near-duplicates"] + steps["embedding"]))
    # The forecast has all of them run, since what an audit will find is not foretold: so they count as if they had.
    assert whole["usd"] == pytest.approx(float(bill + steps["near-duplicates"]))
    assert whole["seconds"] == pytest.approx(seconds + float(steps["near-duplicates"]))  # a second is a dollar
    again = str(take_receipt(receipt.run, receipt.stopped))
    assert "near-duplicates were expected to save $1.000000 if certified" in again
    assert "the near-duplicates counted as if they had run" in again
