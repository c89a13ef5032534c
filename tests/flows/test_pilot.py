"""After a run's first rows: whether another engine is still worth its start."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.forecast import engine_of
from flows.members import pending_rows
from flows.open import Work
from flows.pilot import Pilot
from serving.config import parse_job
from serving.engines.measured import Measured, learn
from serving.environment import STATE
from serving.records import StepEvidence
from serving.store.predictions import read_prediction
from tests.flows.conftest import Open

MODELS = Path(__file__).parents[2] / "models"
FULL, QUANTIZED = MODELS / "smollm2-135m-instruct", MODELS / "smollm2-135m-instruct-w8a8"
pytestmark = pytest.mark.skipif(not QUANTIZED.is_dir(), reason="`gristmill models prepare` makes it")

LONG, SHORT = "a long prompt " * 40, "a short one"
TOKENS = (100.0, 6000.0, 150_000.0, 4000.0, 300_000.0)


def steps(seconds: float) -> StepEvidence:
    """A hundred alike, which take so long together."""
    products = tuple(a * b / seconds for at, a in enumerate(TOKENS) for b in TOKENS[at:])
    return StepEvidence(seconds, TOKENS, products)


Ready = Callable[..., Any]


@pytest.fixture
def ready(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """A job of ten long and twenty short rows, whose engines are known here: the full one takes 10 s for 100 steps."""
    (tmp_path / ".gristmill").mkdir()
    monkeypatch.setenv(STATE, str(tmp_path / ".gristmill"))

    @contextmanager
    def open_this(
        rule: str = "auto", quantized_s: float = 8.0, start_s: float = 20.0, misses: tuple[float, ...] = ()
    ) -> Iterator[tuple[Work, Pilot]]:
        prompts = [f"{LONG} {number}" for number in range(10)] + [f"{SHORT} {number}" for number in range(20)]
        sections = {
            "model": {"full": str(FULL), "quantized": str(QUANTIZED)},
            "engine": {"kind": "vllm", "max_num_seqs": 8, "max_model_len": 512},
            "sampling": {"max_tokens": 32},
            "route": {"to_quantized": rule, "short_prompt_tokens": 64},
        }
        with opened(*prompts, **sections) as work:
            answers = tuple((35, 32, 5 + number % 20) for number in range(64))
            lengths = {work.facts["input"]["sha256"]: answers}
            for name, seconds in (("full", 10.0), ("quantized", quantized_s)):
                engine = engine_of(work, work.job.lanes[name])
                learn(engine, Measured(steps(seconds), seconds * 1.05, start_s, start_s, lengths, misses))
            lanes = [(lane, pending_rows(work, lane)) for lane in work.job.lanes.values()]
            assert [len(rows) for _, rows in lanes] == [10, 20]
            yield work, Pilot(work, lanes, Decimal(0))

    return open_this


def joined(pilot: Pilot) -> list[list[int]]:
    pilot.take(steps(10.0), 12.0)
    return [rows.tolist() for rows in pilot.portions(np.arange(10), 12.0)]


def test_rows_that_are_sooner_done_here_than_another_engine_is_are_answered_here(ready: Ready) -> None:
    with ready() as (work, pilot):
        assert joined(pilot) == [list(range(10)), list(range(10, 30))]
        told = read_prediction(work.run, "pilot")
        assert told is not None
        assert [(lane["lane"], lane["rows"]) for lane in told["lanes"]] == [("full", 30)]


def test_a_rule_that_the_job_states_is_kept(ready: Ready) -> None:
    with ready("short") as (_, pilot):
        assert joined(pilot) == [list(range(10))]


def test_an_engine_that_earns_its_start_is_started(ready: Ready) -> None:
    with ready(quantized_s=0.5, start_s=0.1) as (work, pilot):
        assert joined(pilot) == [list(range(10))]
        told = read_prediction(work.run, "pilot")
        assert told is not None
        assert [lane["lane"] for lane in told["lanes"]] == ["full", "quantized"]


def test_what_is_not_sure_changes_nothing(ready: Ready) -> None:
    # Forecasts of these engines were off by a factor of five, and another start is cheap: either may be the dearer one.
    with ready(start_s=0.1, misses=(1.6, -1.6, 1.6, -1.6)) as (_, pilot):
        assert joined(pilot) == [list(range(10))]


def test_before_the_look_a_lane_answers_its_own_rows_alone(ready: Ready) -> None:
    with ready() as (_, pilot):
        assert [rows.tolist() for rows in pilot.portions(np.arange(10), 0.0)] == [list(range(10))]


def unseen(pilot: Pilot, s_per_row: float, start_up_s: float) -> list[list[int]]:
    """What is answered here by an engine that shows nothing of its steps."""
    pilot.take(None, start_up_s)
    answered = []
    for rows in pilot.portions(np.arange(10), start_up_s):
        answered.append(rows.tolist())
        time.sleep(s_per_row * len(rows))
    return answered


def test_rows_that_take_less_here_than_any_start_does_are_answered_here(ready: Ready) -> None:
    with ready() as (_, pilot):
        assert unseen(pilot, 0.001, 1.0) == [list(range(10)), list(range(10, 30))]


def test_rows_that_may_be_worth_a_start_get_an_engine_of_their_own(ready: Ready) -> None:
    with ready() as (_, pilot):
        assert unseen(pilot, 0.01, 0.2) == [list(range(10))]


def test_a_rule_that_the_job_states_is_kept_whatever_a_start_takes(ready: Ready) -> None:
    with ready("short") as (_, pilot):
        assert unseen(pilot, 0.0, 100.0) == [list(range(10))]


def test_to_leave_the_lane_open_is_another_job_than_to_state_it(tmp_path: Path) -> None:
    def settings(rule: str) -> dict[str, Any]:
        job = {
            "dataset": {"path": "in.jsonl"},
            "model": {"full": "a", "quantized": "b"},
            "price": {"usd_per_hour": "1"},
            "route": {"to_quantized": rule},
        }
        return parse_job(job, "job").settings_that_change_an_answer()

    assert settings("auto")["route"] == {"to_quantized": "auto", "short_prompt_tokens": 64}
    assert settings("auto") != settings("short")
