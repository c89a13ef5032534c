"""A cheaper model that knows when it errs answers all first, where that is expected to pay; what it is sure of is
served under an audit of its own, and the rest runs on the full model."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import lane
from flows.answer import answer
from flows.progress import Silent
from flows.receipt import Receipt
from flows.trials import Watch
from serving.engines.echo import EchoEngine
from serving.records import Choice, Completion, Endpoint, Message, Request, Sampling, Usage
from serving.store.ledger import ask, open_ledger
from serving.store.meter import Meter
from serving.store.verify import verify
from tests.flows.test_lane import Bench

ROWS = 3000
CHEAP, DEAR = "0.1", "1"  # of a token
asked: list[tuple[str, int]] = []


def errs(row: int) -> bool:
    """A third of all, which no prompt gives away."""
    return row * 7919 % 30 < 10


class Model(EchoEngine):
    lane = "full"
    tells = True

    def _answer(self, request: Request) -> Completion:
        asked.append((self.lane, request.row))
        wrong = self.lane == "quantized" and errs(request.row)
        logprobs = None
        if request.sampling.logprobs is not None and self.tells:
            logprobs = [{"token": "x", "logprob": -2.0 if wrong else -0.1, "top_logprobs": []}]
        text = "wrong" if wrong else f"answer {request.row}"
        return Completion(request.row, (Choice(text, "stop", logprobs),), Usage(10, 2))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipt]:
    asked.clear()
    monkeypatch.setattr("flows.lane.PORTION_ROWS", 500)

    def ran(cheap: str = CHEAP, tells: bool = True, dies_after: int | None = None, judge: str = "exact") -> Receipt:
        deaths = iter([dies_after])

        def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
            dies = next(deaths, None) if lane.name == "quantized" else None
            engine = Model(stop=stop, meter=meter, dies_after=dies)
            engine.lane, engine.tells = lane.name, tells
            return engine

        monkeypatch.setattr("flows.lane.open_engine", opened)
        sections = {
            "model": {"full": "large", "quantized": "small"},
            "route": {"to_quantized": "certified"},
            "quality": {"max_wrong": 0.05, "repeats": 0, "judge": judge},
            "price": {
                **{f"{way}_usd_per_mtok": DEAR for way in ("input", "output")},
                "lanes": {"quantized": {f"{way}_usd_per_mtok": cheap for way in ("input", "output")}},
            },
        }
        return answer(
            Bench(tmp_path, [f"prompt {row}" for row in range(ROWS)], **sections).job, tmp_path / "runs", Silent()
        )

    return ran


def told(receipt: Receipt, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, sql).rows


def lanes(receipt: Receipt) -> dict[str, int]:
    return dict(told(receipt, "SELECT lane, count(*) FROM rows GROUP BY lane"))


def cascaded(receipt: Receipt) -> bool:
    return bool(told(receipt, "SELECT 1 FROM trials WHERE look IS NULL LIMIT 1"))


def test_what_it_is_sure_of_is_served_and_what_not_runs_on_the_full_model(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert cascaded(receipt)
    assert told(receipt, "SELECT certified FROM certificates ORDER BY look") == [(False,), (True,)]
    served = lanes(receipt)["quantized"]
    assert served > ROWS / 3
    [(wrong,)] = told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%wrong%'")
    assert wrong <= 0.05 * served
    assert verify(receipt.run).rows == ROWS


def test_every_row_is_asked_at_most_once_of_each_model(run: Callable[..., Receipt]) -> None:
    run()
    assert max(Counter(asked).values()) == 1


def test_no_answer_keeps_the_probabilities_that_nobody_asked_for(run: Callable[..., Receipt]) -> None:
    receipt = run()
    assert told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%logprob\":-%'") == [(0,)]
    assert told(receipt, "SELECT count(*) FROM trials WHERE confidence IS NULL") == [(0,)]


def test_its_tokens_are_paid_once_and_the_bill_adds_up(run: Callable[..., Receipt]) -> None:
    receipt = run()
    [(usd,)] = told(receipt, "SELECT usd FROM bills")
    paid = sum({"full": 12e-6, "quantized": 1.2e-6}[lane] for lane, _ in asked)
    assert float(usd) == pytest.approx(paid)
    [(baseline, bill, saved)] = told(
        receipt, "SELECT baselines.usd, bills.usd, (SELECT sum(saved_usd) FROM savings) FROM baselines, bills"
    )
    assert baseline - bill == saved
    assert float(bill) < float(baseline)


def test_it_is_not_begun_where_it_would_cost_more_than_it_saves(run: Callable[..., Receipt]) -> None:
    receipt = run(cheap="0.9")
    assert not cascaded(receipt)
    assert lanes(receipt) == {"full": ROWS}


def test_it_is_not_begun_where_the_engine_does_not_tell_how_sure_it_is(run: Callable[..., Receipt]) -> None:
    receipt = run(tells=False)
    assert not cascaded(receipt)
    assert told(receipt, "SELECT count(*) FROM rows WHERE choices LIKE '%wrong%'") == [(0,)]


def test_what_it_dies_of_is_left_to_the_full_model(run: Callable[..., Receipt]) -> None:
    receipt = run(dies_after=900)
    assert sum(lanes(receipt).values()) == ROWS
    assert verify(receipt.run).rows == ROWS


def test_what_was_tried_before_a_kill_is_not_asked_again(
    run: Callable[..., Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, kept = lane.keep_portion, []

    def killed(*arguments: Any) -> None:
        keep(*arguments)
        kept.append(1)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("flows.lane.keep_portion", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr("flows.lane.keep_portion", keep)
    receipt = run()
    assert cascaded(receipt)
    assert max(Counter(asked).values()) == 1
    assert verify(receipt.run).rows == ROWS


def test_a_server_that_may_mind_is_not_asked_for_probabilities(run: Callable[..., Receipt]) -> None:
    request = Request(0, "r0", Endpoint.CHAT, (Message("user", "hello"),), Sampling())
    for server, logprobs in (("openai", None), ("tgi", None), ("vllm", 0), ("sglang", 0)):
        work: Any = SimpleNamespace(job=SimpleNamespace(engine=SimpleNamespace(kind="http", server=server)))
        [watched] = Watch(work, "small").requests([request])
        assert watched is not None
        assert watched.sampling.logprobs == logprobs
