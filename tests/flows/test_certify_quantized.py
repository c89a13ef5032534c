"""The quantized model answers under a certificate alone: audited against the full one, which answers what fails."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.answer import answer, answer_work
from flows.open import open_work
from flows.pilot import Pilot
from flows.progress import Silent
from flows.receipt import Receipt
from flows.report.sentences import report
from serving.engines.echo import EchoEngine
from serving.records import Choice, Completion, Request, Usage
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.meter import Meter
from serving.store.verify import verify
from tests.flows.test_lane import Bench, answers

ROWS = 600
Differs = Callable[[str], bool]
asked: list[tuple[str, int]] = []


class TwoModels(EchoEngine):
    """Answers the same whichever model it is, but for prompts of which `differs` says that the quantized one errs."""

    lane = "full"
    differs: Differs = staticmethod(lambda prompt: False)

    def _answer(self, request: Request) -> Completion:
        prompt = request.messages[-1].content
        asked.append((self.lane, request.row))
        text = "other" if self.lane == "quantized" and self.differs(prompt) else "same"
        return Completion(request.row, (Choice(text, "stop"),), Usage(len(prompt.split()), 1))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipt]:
    asked.clear()

    def ran(
        differs: Differs = lambda prompt: False,
        prompts: list[str] | None = None,
        dies_after: int | None = None,
        repeats: int = 0,
    ) -> Receipt:
        deaths = iter([dies_after])

        def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
            dies = next(deaths, None) if lane.name == "quantized" else None
            engine = TwoModels(stop=stop, meter=meter, dies_after=dies)
            engine.lane, engine.differs = lane.name, differs  # type: ignore[method-assign]
            return engine

        monkeypatch.setattr("flows.lane.open_engine", opened)
        sections = {
            "model": {"full": "large", "quantized": "small"},
            "route": {"to_quantized": "certified"},
            "quality": {"max_wrong": 0.05, "repeats": repeats},
        }
        told = prompts or [f"{'long ' * (row % 40)}prompt {row}" for row in range(ROWS)]
        return answer(Bench(tmp_path, told, **sections).job, tmp_path / "runs", Silent())

    return ran


def test_a_sample_of_a_job_serves_nothing_that_no_audit_has_borne_out(
    run: Callable[..., Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = lambda job, runs, progress: answer_work(open_work(job, runs, progress), sample_rows=5)  # noqa: E731
    monkeypatch.setattr("tests.flows.test_certify_quantized.answer", sampled)
    receipt = run()
    assert lanes(receipt) == {"full": 5}
    assert {lane for lane, _ in asked} == {"full"}


def test_a_lane_that_is_not_worth_any_start_is_left_to_the_full_model(
    run: Callable[..., Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.answer.pilot_of", lambda work, lanes: Pilot(work, lanes, Decimal(0)))
    monkeypatch.setattr("flows.joining.UNKNOWN_START", 1e9)
    receipt = run()
    assert lanes(receipt) == {"full": ROWS}
    assert Counter(asked) == {("full", row): 1 for row in range(ROWS)}
    verify(receipt.run)
    assert f"{ROWS} rows could be, but its engine was not worth a start" in report(receipt.run)


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, sql).rows


def lanes(receipt: Receipt) -> dict[str, int]:
    return dict(told(receipt, "SELECT lane, count(*) FROM rows GROUP BY lane"))


def test_what_audits_bear_out_is_answered_by_the_quantized_model(run: Callable[..., Receipt]) -> None:
    receipt = run()
    [(rows, audited, wrong, certified)] = told(receipt, "SELECT rows, audited, wrong, certified FROM certificates")
    assert (rows, wrong, certified) == (ROWS, 0, True)
    drawn = told(receipt, "SELECT count(drawn) FROM looks")[0][0]
    assert audited <= drawn <= ROWS / 4
    assert lanes(receipt) == {"full": drawn, "quantized": ROWS - drawn}
    assert Counter(lane for lane, _ in asked) == {"full": drawn, "quantized": ROWS - drawn + audited}
    assert verify(receipt.run).rows == ROWS


def test_an_audit_is_an_overhead_and_the_bill_adds_up(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert told(receipt, "SELECT count(*), min(lane), sum(tokens) > 0 FROM overheads WHERE kind = 'audit'") == [
        (1, "quantized", True)
    ]
    [(baseline, bill, saved)] = told(
        receipt, "SELECT baselines.usd, bills.usd, (SELECT sum(saved_usd) FROM savings) FROM baselines, bills"
    )
    assert baseline - bill == saved


def test_where_audits_find_it_wrong_the_full_model_answers_all(run: Callable[..., Receipt]) -> None:
    receipt = run(differs=lambda prompt: True)
    assert lanes(receipt) == {"full": ROWS}
    assert Counter(row for lane, row in asked if lane == "full").most_common(1)[0][1] == 1, "no row is run twice"
    assert set(answers(receipt.run).values()) == {"same"}
    assert told(receipt, "SELECT count(*) FROM certificates WHERE certified") == [(0,)]


def test_rows_that_the_quantized_model_gets_wrong_are_learned_and_left_to_the_full_one(
    run: Callable[..., Receipt],
) -> None:
    # Every long prompt, a quarter of all, is answered wrong.
    receipt = run(differs=lambda prompt: prompt.count("long") >= 30, prompts=[
        f"{'long ' * (row % 40)}prompt {row}" for row in range(3000)
    ])  # fmt: skip
    looks = told(receipt, "SELECT look, certified FROM certificates ORDER BY look")
    assert looks[-1][0] > 0
    assert looks[-1][1]
    wrong = told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%other%'")[0][0]
    served = lanes(receipt)["quantized"]
    assert served > 1000
    assert wrong <= 0.05 * served


def test_too_few_rows_for_a_certificate_go_to_the_full_model_and_start_no_other(run: Callable[..., Receipt]) -> None:
    receipt = run(prompts=[f"prompt {row}" for row in range(20)])
    assert {lane for lane, _ in asked} == {"full"}
    assert "too few for a certificate" in str(receipt)


def test_a_quantized_engine_that_dies_of_its_audits_is_not_asked_again(run: Callable[..., Receipt]) -> None:
    receipt = run(dies_after=5)
    assert lanes(receipt) == {"full": ROWS}
    assert receipt.exit_code == 0
    assert verify(receipt.run).rows == ROWS


def test_one_query_counts_the_certificate_anew(run: Callable[..., Receipt]) -> None:
    receipt = run(differs=lambda prompt: prompt.count("long") == 1)
    columns = "lever, look, rows, audited, wrong, most_wrong, certified"
    said = told(receipt, f"SELECT {columns} FROM certificates ORDER BY look")
    anew = named_queries()["certificate"].sql.removesuffix(";\n")
    assert told(receipt, f"SELECT {columns} FROM ({anew}) ORDER BY look") == said
    assert said[0][4] > 0


def test_the_full_model_is_asked_again_and_its_own_disagreement_is_reported(run: Callable[..., Receipt]) -> None:
    receipt = run(repeats=40)
    assert told(receipt, "SELECT count(*), count(*) FILTER (agrees) FROM noise") == [(40, 40)]
    assert Counter(row for lane, row in asked if lane == "full").most_common(40)[-1][1] == 2
    assert "asked again, the full model itself says something else in 0.0%" in str(receipt)
    assert told(receipt, "SELECT count(*) FROM overheads WHERE kind = 'audit' AND lane = 'full'") == [(1,)]


def test_a_manager_can_quote_the_report(run: Callable[..., Receipt]) -> None:
    receipt = run()
    served = lanes(receipt)["quantized"]
    assert f"quantized answers: at most 19 of {served} are wrong, with 95% confidence" in report(receipt.run)
