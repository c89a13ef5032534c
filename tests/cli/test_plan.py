"""`gristmill plan` and `calibrate`: what a job will take, said before an engine runs, and held against it after."""

import json
from pathlib import Path

import pytest

from flows.forecast import Forecast, LaneForecast, engine_of
from flows.open import open_work
from flows.progress import Silent
from serving.config import load_job
from serving.engines.measured import Measured, learn
from serving.environment import STATE
from serving.records import Interval, StepEvidence
from serving.store.predictions import read_prediction, write_prediction
from serving.store.run import Run
from tests.cli.command import Place, one_line, rows

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "smollm2-135m-instruct"
TOKENS = (100.0, 6000.0, 150_000.0, 4000.0, 300_000.0)
# A hundred steps of a tenth of a second: half of it the step itself, half by tokens of prompts.
SEEN = StepEvidence(10.0, TOKENS, tuple(a * b / 1000 for at, a in enumerate(TOKENS) for b in TOKENS[at:]))


@pytest.fixture
def local(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A job for vLLM on the small model, in whose folder this process stands as the command will."""
    place.prompts(rows(40))
    place.job(engine='kind = "vllm"\nmax_num_seqs = 8\nmax_model_len = 512', model=str(MODEL))
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv(STATE, str(place.folder / ".gristmill"))
    return place


def know(place: Place) -> None:
    """As if the engine had run here."""
    work = open_work(load_job(place.folder / "job.toml"), place.folder / "runs", Silent())
    answers = tuple((35, 256, 5 + number % 20) for number in range(64))
    engine = engine_of(work, work.job.lanes["full"])
    learn(engine, Measured(SEEN, 10.5, 18.0, 4.0, {work.facts["input"]["sha256"]: answers}))


def test_an_engine_that_has_not_run_here_is_not_guessed_at(local: Place) -> None:
    done = local.gristmill("plan", "job.toml")
    assert done.code == 0
    assert "40 = 40 to run" in done.out
    assert "no forecast: this machine has not run these engines yet; `gristmill calibrate JOB.toml` does" in done.out


def test_a_known_engine_is_forecast_and_nothing_is_asked_of_it(local: Place) -> None:
    know(local)
    done = local.gristmill("plan", "job.toml", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    (lane,) = told["forecast"]["lanes"]
    assert (lane["lane"], lane["rows"]) == ("full", 40)
    for name in ("tokens", "s_per_token", "start_up_s", "seconds"):
        assert lane[name]["low_90"] <= lane[name]["value"] <= lane[name]["high_90"]
    # Answers of 5 to 24 tokens to forty prompts of which most begins in common.
    assert 40 * 5 < lane["tokens"]["value"] < 40 * (40 + 24)
    assert 12.0 < lane["start_up_s"]["value"] < 24.0
    assert told["forecast"]["usd"]["value"] == pytest.approx(told["forecast"]["seconds"]["value"])  # a dollar a second
    assert not list(local.only_run.glob("segments/[0-9]*.json"))
    assert not (local.only_run / "logs").exists()


def test_the_same_job_is_forecast_alike_each_time(local: Place) -> None:
    know(local)
    first, second = (local.gristmill("plan", "job.toml").out for _ in range(2))
    assert first == second
    assert "expected" in first


def test_other_settings_are_told_with_what_they_would_cost(local: Place) -> None:
    know(local)
    told = json.loads(local.gristmill("plan", "job.toml", "--json").out)
    costs = [one["usd"]["value"] for one in told["alternatives"]]
    assert costs == sorted(costs)
    assert {one["setting"] for one in told["alternatives"]} == {
        f"engine.max_num_seqs = {slots}" for slots in (16, 32, 64, 128)
    }


def test_how_much_runs_at_once_is_chosen_where_the_job_leaves_it_open(local: Place) -> None:
    local.prompts(rows(300))
    local.job(engine='kind = "vllm"\nmax_model_len = 512', model=str(MODEL))
    know(local)
    told = json.loads(local.gristmill("plan", "job.toml", "--json").out)
    # A step costs as much as its prompts in all, so fewer and fuller steps cost less.
    assert told["forecast"]["max_num_seqs"] == 128
    assert told["forecast"]["usd"]["value"] < min(one["usd"]["value"] for one in told["alternatives"])


def test_the_forecast_is_kept_with_the_run_and_sealed(local: Place) -> None:
    know(local)
    local.gristmill("plan", "job.toml")
    run = Run(local.only_run)
    assert read_prediction(run, "plan") is not None
    file = local.only_run / "predictions" / "plan.json"
    file.write_bytes(file.read_bytes().replace(b"full", b"fall"))
    assert local.gristmill("verify").code == 4


def test_an_engine_that_is_not_ours_is_not_calibrated(place: Place) -> None:
    place.prompts(rows(3))
    place.job()
    done = place.gristmill("calibrate", "job.toml")
    assert done.code == 2
    assert 'engine.kind = "echo": only an engine that runs here is calibrated' in one_line(done.err)


def test_an_engine_that_is_not_ours_is_not_forecast(place: Place) -> None:
    place.prompts(rows(3))
    place.job()
    done = place.gristmill("plan", "job.toml")
    assert done.code == 0
    assert 'no forecast: engine.kind = "echo"; only engines that run on this machine are forecast' in done.out
    assert place.run().code == 0


def test_a_finished_job_costs_nothing_more(place: Place) -> None:
    place.prompts(rows(3))
    place.job()
    assert place.run().code == 0
    assert "is finished: running it again costs nothing" in place.gristmill("plan", "job.toml").out


def a_forecast(seconds: float) -> Forecast:
    figure = Interval(seconds, seconds / 2, seconds * 2)
    lane = LaneForecast("full", 3, Interval(9.0, 8.0, 10.0), figure, figure, figure)
    return Forecast((lane,), figure, figure, "0", 64)


def test_what_was_expected_is_held_against_what_it_was(place: Place) -> None:
    place.prompts(rows(3))
    place.job()
    assert place.run().code == 0
    write_prediction(Run(place.only_run), "plan", a_forecast(1000.0))
    found = place.ask("SELECT lane, factor, measured, predicted, off, within FROM reconciled")
    by_factor = {(line["lane"], line["factor"]): line for line in found}
    assert by_factor[("full", "tokens")]["measured"] == 3 * 3 + 3 * 3  # three words in, the same three out
    assert by_factor[(None, "usd")]["off"] == pytest.approx(by_factor[(None, "usd")]["measured"] / 1000 - 1)
    assert not by_factor[(None, "usd")]["within"]
    assert "predicted" in place.gristmill("costs", "predicted").out


def test_the_first_word_counts(place: Place) -> None:
    place.prompts(rows(3))
    place.job()
    assert place.run().code == 0
    run = Run(place.only_run)
    write_prediction(run, "plan", a_forecast(1.0))
    write_prediction(run, "plan", a_forecast(2.0))
    told = read_prediction(run, "plan")
    assert told is not None
    assert told["seconds"]["value"] == 1.0
