"""The page of a run: itself alone, true to the ledger, and deaf to what a dataset would have it do."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.limits import StopReason
from flows.open import hardware_of
from flows.receipt import Receipt
from flows.report.advice import advice_for
from flows.report.figures import figures_of
from flows.report.page import page, write_page
from flows.report.roofline import roofline_of
from serving.engines.ceilings import Ceilings, keep
from serving.engines.machine import this_machine
from serving.environment import STATE
from serving.store.ledger import ask, open_ledger
from serving.store.verify import verify
from tests.flows.test_lane import Bench

MODEL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"
HOSTILE = [
    "<script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; \u202egnp.exe",
    "\x1b[31mred",
]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda prompts, **sections: Bench(tmp_path, prompts, **sections)


def shown(receipt: Receipt) -> str:
    return write_page(receipt.run).read_text(encoding="utf-8")


def test_it_needs_nothing_but_itself(bench: Callable[..., Bench]) -> None:
    text = shown(bench([f"prompt {row}" for row in range(50)]).run())
    outside = r'(?:src|href|action)\s*=\s*"(?!#)|url\((?!#|&quot;#|\'#)|@import|<link|<script|<iframe|<object|<embed'
    own = re.sub(r'xlink:href="#[^"]*"', "", text)
    assert re.search(outside, own) is None
    assert "<!DOCTYPE svg" not in text
    assert len(text) < 400_000


def test_what_a_dataset_says_is_text(bench: Callable[..., Bench]) -> None:
    prompts = [*HOSTILE, *(f"prompt {row}" for row in range(20)), ""]
    made = bench(prompts, model={"full": HOSTILE[0]}, tenant={"name": "t"})
    text = shown(made.run(fails=lambda request: "script" in request.messages[-1].content))
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;" in text


def test_its_figures_are_the_ledgers(bench: Callable[..., Bench]) -> None:
    receipt = bench([f"prompt {row % 30}" for row in range(60)]).run()
    text = shown(receipt)
    with open_ledger(receipt.run.folder.parent) as ledger:
        [(usd, answered)] = ask(ledger, "SELECT usd, answered FROM bills").rows
    assert f"{answered:,} answers for ${usd:.6f}" in text
    assert "30" in re.search(r"answered without a run</dt><dd>([^<]*)", text).group(1)  # type: ignore[union-attr]


def test_the_same_run_gives_the_same_page(bench: Callable[..., Bench]) -> None:
    receipt = bench([f"prompt {row}" for row in range(40)]).run()
    assert shown(receipt) == shown(receipt)


def test_a_page_leaves_a_finished_run_finished_and_whole(bench: Callable[..., Bench]) -> None:
    made = bench([f"prompt {row}" for row in range(40)])
    receipt = made.run()
    shown(receipt)
    assert verify(receipt.run).rows == 40
    made.fed.clear()
    made.run()
    assert made.fed == []


@pytest.mark.parametrize("prompts", [[""], ["one"], ["one"] * 5])
def test_a_run_of_almost_nothing_has_a_page(bench: Callable[..., Bench], prompts: list[str]) -> None:
    assert "What ran" in shown(bench(prompts).run())


def test_a_run_that_was_stopped_says_what_is_open(bench: Callable[..., Bench]) -> None:
    made = bench([f"prompt {row}" for row in range(40)], budget={"usd": "1.001"})
    receipt = made.run()
    if receipt.counts["expired"]:
        assert "it goes on where it stopped" in shown(receipt)


def test_every_chart_is_drawn_in_the_pages_own_colours(bench: Callable[..., Bench]) -> None:
    text = shown(bench([f"{'long ' * (row % 30)}prompt {row}" for row in range(60)]).run())
    assert text.count("<svg") >= 4
    drawn = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert not [colour for svg in drawn for colour in re.findall(r"#[0-9a-f]{6}\b", svg) if colour.startswith("#1111")]
    assert all("var(--" in svg for svg in drawn)


def test_a_run_whose_engine_shows_its_load_stands_under_the_roofline(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = figures_of(bench([f"prompt {row}" for row in range(40)]).run().run)
    assert figures.roofline is None  # the double computes nothing
    lane = {"lane": "full", "model": str(MODEL), "prompt_tokens": 60.0, "output_tokens": 20.0,
            "decode_s": 10.0, "decode_steps": 60, "decode_tokens": 1500, "mixed_s": 8.0, "mixed_steps": 10,
            "mixed_prefill": 3000, "mixed_decode": 50}  # fmt: skip
    facts = {**figures.facts, "machine": {"dtype": "float32", **hardware_of(this_machine())}}
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    assert roofline_of(facts, [lane]) is None  # nothing is known of this machine
    keep(Ceilings(1.2e11, 1.8e10, "measured 2026-11-26"), this_machine(), "float32")
    found = roofline_of(facts, [lane])
    if this_machine().has_gpu:
        return
    assert found is not None
    assert [spot.name for spot in found.spots] == ["full: prefill", "full: decode"]
    assert roofline_of({**facts, "machine": {**facts["machine"], "cpu": "another"}}, [lane]) is None
    shares = [spot.flop_s / min(1.2e11, spot.flop_per_byte * 1.8e10) for spot in found.spots]
    assert all(0 < share < 1 for share in shares)
    text = page(replace(figures, roofline=found))
    assert "measured 2026-11-26" in text
    assert "full: decode, " in text


def test_a_model_that_is_gone_leaves_the_roofline_out() -> None:
    lane = {"lane": "full", "model": "no/such/folder"}
    engine = {"quantize": "none", "replicas": 1}
    machine = {"dtype": "float32", **hardware_of(this_machine())}
    assert roofline_of({"machine": machine, "job": {"engine": engine, "model": {"full": "no"}}}, [lane]) is None


def advice(receipt: Receipt) -> dict[str, Any]:
    return {one.change: one.saves_usd for one in advice_for(figures_of(receipt.run))}


def test_it_advises_to_share_answers_where_equal_rows_were_run(bench: Callable[..., Bench]) -> None:
    receipt = bench(["same"] * 30 + ["other"], reuse={"exact": False}).run()
    [saves] = [usd for change, usd in advice(receipt).items() if "exact = true" in change]
    with open_ledger(receipt.run.folder.parent) as ledger:
        [(usd,)] = ask(ledger, "SELECT sum(usd) FROM rows").rows
    assert 0 < saves < usd


def test_it_advises_nothing_that_would_have_saved_nothing(bench: Callable[..., Bench]) -> None:
    told = advice(bench([f"prompt {row}" for row in range(30)]).run())
    assert not any("exact = true" in change for change in told)


def test_rows_that_were_refused_are_said_with_the_first(bench: Callable[..., Bench]) -> None:
    receipt = bench(["one", "", "two"]).run()
    assert any("mend the rows that were refused" in change for change in advice(receipt))
    figures = figures_of(receipt.run)
    assert figures.refused[0]["code"] in page(figures)
    assert receipt.stopped is StopReason.NONE
