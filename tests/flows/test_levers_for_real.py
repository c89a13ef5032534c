"""What saves runs of the full model, with the real engine and the real models: a cheaper lane and near-duplicates, each
under a certificate of its own, judged by the full model itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serving.store.ledger import ask, open_ledger

ROOT = Path(__file__).parents[2]
GRISTMILL = ROOT / ".venv" / "bin" / "gristmill"
JOB = """
[dataset]
path = "{folder}/prompts.jsonl"
[model]
full = "models/smollm2-135m-instruct"
cheaper = {{ int8 = "models/smollm2-135m-instruct-w8a8" }}
[sampling]
max_tokens = 6
[reuse]
semantic = true
[route]
to_quantized = "certified"
[quality]
judge = "{judge}"
max_wrong = 0.45
repeats = 20
# By tokens: by the hour, no engine might be worth its start for so few rows.
[price]
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.4
"""
THINGS = [
    "apple",
    "carrot",
    "violin",
    "hammer",
    "salmon",
    "eagle",
    "oak",
    "copper",
    "river",
    "cloud",
    "novel",
    "tractor",
    "lemon",
    "piano",
    "wolf",
    "granite",
]
KINDS = ["a fruit", "a tool", "an animal", "a plant", "a metal", "an instrument", "a vehicle", "food", "alive", "heavy"]

pytestmark = [pytest.mark.real, pytest.mark.engines]


@pytest.fixture(scope="module", params=["normalised", "model"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str, int]:
    """By whom it was judged, the runs, the receipt, and how many rows went in."""
    folder = tmp_path_factory.mktemp(request.param)
    asked = [f"Is {thing} {kind}? Answer yes or no." for thing in THINGS for kind in KINDS]
    asked += [f"Please, is {thing} {kind}? Answer yes or no." for thing in THINGS for kind in KINDS[:4]]
    rows = [{"id": f"row-{number}", "prompt": prompt} for number, prompt in enumerate(asked)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.toml").write_text(JOB.format(folder=folder, judge=request.param))
    command = [str(GRISTMILL), "--runs", str(folder / "runs"), "run", str(folder / "job.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return request.param, folder / "runs", done.stdout, len(rows)


def found(runs: Path, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(runs) as ledger:
        return ask(ledger, sql).rows


def test_every_row_is_answered_and_the_bill_adds_up(run: tuple[str, Path, str, int]) -> None:
    _, runs, receipt, rows = run
    assert f"{rows} = {rows} answered + 0 refused + 0 failed + 0 expired" in receipt
    [(usd, summed)] = found(runs, "SELECT usd, rows_usd + overhead_usd FROM bills")
    assert usd == summed
    [(baseline, usd, saved)] = found(
        runs, "SELECT any_value(baselines.usd), any_value(bills.usd), sum(saved_usd)"
              " FROM baselines JOIN bills USING (run_id) JOIN savings USING (run_id)",
    )  # fmt: skip
    assert baseline - saved == usd


def test_the_cheaper_lane_is_audited_and_serves_what_it_is_certified_for_and_no_more(
    run: tuple[str, Path, str, int],
) -> None:
    _, runs, _, _ = run
    [(audited,)] = found(runs, "SELECT count(*) FROM verdicts WHERE lever = 'int8'")
    assert audited > 0
    [(served,)] = found(runs, "SELECT count(*) FROM rows WHERE lane = 'int8' AND source = 'engine'")
    [(may,)] = found(runs, "SELECT coalesce(max(rows), 0) FROM certificates WHERE lever = 'int8' AND certified")
    assert served <= may


def test_near_duplicates_share_nothing_uncertified(run: tuple[str, Path, str, int]) -> None:
    _, runs, _, _ = run
    [(shared,)] = found(runs, "SELECT count(*) FROM rows WHERE source = 'semantic'")
    [(may,)] = found(runs, "SELECT coalesce(max(rows), 0) FROM certificates WHERE lever = 'near' AND certified")
    assert shared <= may


def test_a_model_that_judges_is_shown_answers_that_differ_first(run: tuple[str, Path, str, int]) -> None:
    judge, runs, _, _ = run
    [(controls,)] = found(runs, "SELECT count(*) FROM controls")
    assert (controls > 0) == (judge == "model")
