"""Several cheaper models: each answers what its own audit bears out, the cheapest first, and the full one the rest."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.answer import answer
from flows.progress import Silent
from flows.receipt import Receipt
from flows.report.sentences import report
from serving.config import BadJob, parse_job
from serving.engines.echo import EchoEngine
from serving.records import Choice, Completion, Request, Usage
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.meter import Meter
from serving.store.verify import verify
from tests.flows.test_lane import Bench

ROWS = 3000
Errs = Callable[[int], bool]  # whether a lane's model answers a prompt of so many words wrong
asked: list[tuple[str, int]] = []
starts: list[str] = []


class Model(EchoEngine):
    lane = "full"
    errs: Errs = staticmethod(lambda words: False)
    dies_at = 0

    def _answer(self, request: Request) -> Completion:
        asked.append((self.lane, request.row))
        words = len(request.messages[-1].content.split())
        text = f"{self.lane} errs" if self.errs(words) else "right"
        return Completion(request.row, (Choice(text, "stop"),), Usage(words, 1))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipt]:
    asked.clear()
    starts.clear()

    def ran(dies_after: dict[str, int] | None = None, price: dict[str, Any] | None = None, **errs: Errs) -> Receipt:
        deaths = dict(dies_after or {})

        def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
            starts.append(lane.name)
            engine = Model(stop=stop, meter=meter, dies_after=deaths.pop(lane.name, None))
            engine.lane, engine.errs = lane.name, errs.get(lane.name, Model.errs)  # type: ignore[method-assign]
            return engine

        monkeypatch.setattr("flows.lane.open_engine", opened)
        sections = {
            "model": {"full": "large", "quantized": "large-int8", "cheaper": {"small": "small-int8"}},
            "route": {"to_quantized": "certified"},
            "quality": {"max_wrong": 0.05, "repeats": 0},
            "price": price or {"usd_per_hour": "3600"},
        }
        prompts = [f"{'long ' * (row % 40)}prompt {row}" for row in range(ROWS)]
        return answer(Bench(tmp_path, prompts, **sections).job, tmp_path / "runs", Silent())

    return ran


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, sql).rows


def lanes(receipt: Receipt) -> dict[str, int]:
    return dict(told(receipt, "SELECT lane, count(*) FROM rows GROUP BY lane"))


def certified(receipt: Receipt) -> dict[str, bool]:
    return dict(told(receipt, "SELECT lever, bool_or(certified) FROM certificates GROUP BY lever"))


def never(words: int) -> bool:
    return True


def long(words: int) -> bool:
    return words > 30


def test_where_the_cheapest_is_borne_out_for_all_no_other_is_started(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert starts == ["full", "small"]
    assert certified(receipt) == {"small": True}
    assert lanes(receipt)["small"] > 0.75 * ROWS


def test_what_the_cheapest_is_not_borne_out_for_goes_to_the_next(run: Callable[..., Receipt]) -> None:
    receipt = run(small=never)
    assert certified(receipt) == {"small": False, "quantized": True}
    assert lanes(receipt).keys() == {"full", "quantized"}
    assert lanes(receipt)["quantized"] > ROWS / 2
    assert verify(receipt.run).rows == ROWS


def test_each_answers_the_part_that_it_is_borne_out_for(run: Callable[..., Receipt]) -> None:
    receipt = run(small=long)
    assert certified(receipt) == {"small": True, "quantized": True}
    served = lanes(receipt)
    assert served["small"] > ROWS / 3
    assert served["quantized"] > 0
    wrong = dict(told(receipt, "SELECT lane, count(*) FILTER (choices LIKE '%errs%') FROM rows GROUP BY lane"))
    assert wrong["small"] <= 0.05 * served["small"]
    assert wrong["quantized"] == wrong["full"] == 0
    assert sum(served.values()) == ROWS
    assert Counter(row for lane, row in asked if lane == "full").most_common(1)[0][1] == 1, "no row is run twice there"


def test_where_none_is_borne_out_the_full_model_answers_all(run: Callable[..., Receipt]) -> None:
    receipt = run(small=never, quantized=never)
    assert certified(receipt) == {"small": False, "quantized": False}
    assert lanes(receipt) == {"full": ROWS}
    assert told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%errs%'") == [(0,)]


def test_the_audits_of_a_lane_are_drawn_afresh_from_what_the_one_before_has_left(run: Callable[..., Receipt]) -> None:
    receipt = run(small=long)
    overlapping = """
        SELECT count(*) FROM looks AS one JOIN looks AS other USING (run_id, row)
        WHERE one.lever = 'small' AND one.drawn IS NOT NULL AND other.lever = 'quantized'"""
    assert told(receipt, overlapping) == [(0,)]
    served_before = """
        SELECT count(*) FROM looks JOIN rows USING (run_id, row) WHERE lever = 'quantized' AND lane = 'small'"""
    assert told(receipt, served_before) == [(0,)]


def test_all_promises_hold_together(run: Callable[..., Receipt]) -> None:
    receipt = run(small=long)
    [(delta,)] = told(receipt, "SELECT sum(delta) FROM (SELECT DISTINCT lever, look, delta FROM certificates)")
    assert delta <= 0.05
    counted = told(receipt, named_queries()["certificate"].sql)
    assert all(row[6] == row[7] for row in counted), "counted anew, the bounds are the same"
    text = report(receipt.run)
    assert "small answers: at most" in text
    assert "quantized answers: at most" in text


def test_the_bill_adds_up_and_names_each_lane(run: Callable[..., Receipt]) -> None:
    receipt = run(small=long)
    [(baseline, bill, saved)] = told(
        receipt, "SELECT baselines.usd, bills.usd, (SELECT sum(saved_usd) FROM savings) FROM baselines, bills"
    )
    assert baseline - bill == saved
    steps = {step for (step,) in told(receipt, "SELECT step FROM savings")}
    assert {"small lane", "quantized lane"} <= steps


@pytest.mark.parametrize("lane", ["full", "small", "quantized"])
def test_an_engine_that_dies_costs_no_row_and_no_promise(run: Callable[..., Receipt], lane: str) -> None:
    receipt = run(dies_after={lane: 150}, small=long)
    assert verify(receipt.run).rows == ROWS
    assert sum(lanes(receipt).values()) == ROWS
    wrong = told(receipt, "SELECT count(*) FROM rows WHERE lane <> 'full' AND choices LIKE '%errs%'")[0][0]
    assert wrong <= 0.05 * ROWS


@pytest.mark.parametrize(
    ("model", "route", "fault"),
    [
        ({"cheaper": {"small": "s"}}, "all", r'route.to_quantized is "all", but model.quantized is not set'),
        ({"cheaper": {"small": "s"}, "quantized": "q"}, "all", "answer under a certificate alone"),
        ({"cheaper": {"near": "s"}}, "certified", "'near' is the name of another lane"),
        ({"cheaper": {"quantized": "s"}}, "certified", "'quantized' is the name of another lane"),
        ({"cheaper": {"Small/": "s"}}, "certified", "Small/"),
    ],
)
def test_a_lane_that_cannot_be_is_refused(model: dict[str, Any], route: str, fault: str) -> None:
    job = {
        "dataset": {"path": "in.jsonl"},
        "model": {"full": "large", **model},
        "route": {"to_quantized": route},
        "price": {"usd_per_hour": "1"},
    }
    with pytest.raises(BadJob, match=fault):
        parse_job(job, "job")


def test_a_lane_is_billed_by_its_own_price_and_saves_the_difference(run: Callable[..., Receipt]) -> None:
    dear = {"input_usd_per_mtok": "4", "output_usd_per_mtok": "4"}
    receipt = run(
        price={**dear, "lanes": {"small": {"input_usd_per_mtok": "1", "output_usd_per_mtok": "1"}}}, small=long
    )
    per_token = dict(
        told(
            receipt,
            """
        SELECT lane, sum(usd) / sum(prompt_tokens + completion_tokens) * 1e6 FROM rows GROUP BY lane""",
        )
    )
    assert {lane: round(float(usd), 6) for lane, usd in per_token.items()} == {"full": 4, "quantized": 4, "small": 1}
    saved = dict(told(receipt, "SELECT step, sum(saved_usd) FROM savings GROUP BY step"))
    [(small_usd,)] = told(receipt, "SELECT sum(usd) FROM rows WHERE lane = 'small'")
    assert float(saved["small lane"]) == pytest.approx(3 * float(small_usd))


BY_TOKENS = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "1"}


@pytest.mark.parametrize(
    ("price", "fault"),
    [
        ({"usd_per_hour": "1", "lanes": {"small": BY_TOKENS}}, "by tokens"),
        ({**BY_TOKENS, "lanes": {"big": BY_TOKENS}}, "'big' is no cheaper lane of this job"),
    ],
)
def test_a_price_of_a_lane_that_cannot_be_billed_so_is_refused(price: dict[str, Any], fault: str) -> None:
    job = {
        "dataset": {"path": "in.jsonl"},
        "model": {"full": "large", "cheaper": {"small": "s"}},
        "route": {"to_quantized": "certified"},
        "price": price,
    }
    with pytest.raises(BadJob, match=fault):
        parse_job(job, "job")


def test_a_job_without_other_lanes_is_the_run_that_it_was() -> None:
    job = {"dataset": {"path": "in.jsonl"}, "model": {"full": "large"}, "price": {"usd_per_hour": "1"}}
    assert parse_job(job, "job").settings_that_change_an_answer()["model"] == {"full": "large", "quantized": None}
