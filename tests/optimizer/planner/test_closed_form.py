"""Many engines at once say what each says alone; uneven outputs lengthen the tail as the scheduler does."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.calibration import shipped
from optimizer.planner.closed_form import ClosedForm
from optimizer.planner.guessing import guessing, in_steps
from optimizer.planner.job import Job, TokenCounts
from optimizer.planner.layouts import Engine, Engines, Layout, cache_tokens, engines_from, engines_of, layouts_of
from optimizer.planner.simulated import played_seconds
from optimizer.planner.speculation import checked_seconds
from optimizer.planner.steady_state import fixed, job_seconds
from optimizer.planner.step import Split
from tests.optimizer.planner.jobs import ANYTHING, CHATTY, SMALL
from tests.optimizer.planner.plans import cost

SHAPE = model("Llama-3.1-8B").shape
H100 = Layout(gpu("H100-SXM-80GB"), Split(), "bf16", "auto")
L4 = Layout(gpu("L4"), Split(), "fp8", "auto")
MANY = [Engine(layout, seqs, 8192, guessed) for layout in (H100, L4) for seqs in (32, 256) for guessed in (0, 3)]


def speeds(engines: list[Engine], job: Job = CHATTY) -> ClosedForm:
    return ClosedForm.of(SHAPE, job, engines_from(SHAPE, job, engines), shipped())


def test_each_of_many_is_as_fast_as_it_is_alone() -> None:
    together = speeds(MANY)
    requests = np.linspace(10, 50_000, len(MANY))
    runs = together.run_seconds(requests)
    for place, engine in enumerate(MANY):
        alone = speeds([engine])
        assert alone.requests_per_s[0] == pytest.approx(together.requests_per_s[place])
        assert alone.run_seconds(requests[place : place + 1])[0] == pytest.approx(runs[place])
        picked = together.at(np.array([place]))
        assert picked.run_seconds(requests[place : place + 1])[0] == pytest.approx(runs[place])
        assert (picked.strata, picked.engines.one(0)) == (alone.strata, engine)


def test_equal_outputs_have_the_tail_of_the_steady_state() -> None:
    alike = Job(10_000, TokenCounts.fixed(500), TokenCounts.fixed(200))
    found = speeds(MANY[:1], alike)
    expected = job_seconds(found.cost, found.lengths, found.scheduling, np.array([10_000.0]))
    assert found.run_seconds(np.array([10_000.0])) == pytest.approx(np.asarray(expected))


@settings(max_examples=20, deadline=None)
@given(few=st.floats(1, 1e5), more=st.floats(1.1, 10))
def test_more_requests_never_take_less_time(few: float, more: float) -> None:
    found = speeds(MANY)
    less, longer = (found.run_seconds(np.full(len(MANY), count)) for count in (few, few * more))
    assert np.all(longer >= less * 0.98)


@pytest.mark.parametrize("requests", [40, 600, 6000])
@pytest.mark.parametrize("layout", [H100, L4], ids=["H100", "L4"])
def test_uneven_outputs_take_as_long_as_the_scheduler_played_through(layout: Layout, requests: int) -> None:
    job = Job(requests, CHATTY.prompt_tokens, CHATTY.output_tokens)
    found = speeds([Engine(layout, 64, 8192)], job)
    played = played_seconds(SHAPE, found, 0, requests, draws=2)
    assert played is not None
    assert found.run_seconds(np.array([float(requests)]))[0] == pytest.approx(float(np.mean(played)), rel=0.15)


def test_no_guesses_cost_what_a_step_costs() -> None:
    plain = cost()
    assert guessing(plain, 0.0).seconds(100.0, 5000.0, 16.0, 8000.0) == plain.seconds(100.0, 5000.0, 16.0, 8000.0)


def test_guesses_cost_what_checking_them_costs() -> None:
    plain = cost()
    assert guessing(plain, 3.0).seconds(0.0, 0.0, 16.0, 8000.0) == checked_seconds(plain, 16.0, 8000.0, 3)


def test_outputs_in_steps_hold_as_many_tokens() -> None:
    lengths = fixed(300.0, 400.0)
    steps = in_steps(lengths, np.array([0.0, 2.0]), 0.5)
    assert steps.output == pytest.approx([400.0, 400.0 / 1.75])
    assert steps.held == pytest.approx([lengths.held] * 2)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gemma-2-9b", "DeepSeek-V2-Lite", "Mixtral-8x7B"])
@pytest.mark.parametrize("limits", [(16, 2048), (1024, 2048), (64, 16384)])
def test_the_cache_under_limits_is_that_of_memory_of(name: str, limits: tuple[int, int]) -> None:
    """That of its terms the activations alone depend on them is used to find many at once."""
    shape, layout = model(name).shape, Layout(gpu("H200-SXM-141GB"), Split(2), "bf16", "auto")
    tokens, _ = cache_tokens(shape, SMALL, layout, np.array([limits[0]], float), np.array([limits[1]], float))
    expected = layout.memory(shape, *limits).tokens_held(float(SMALL.lengths.held))
    assert tokens[0] == pytest.approx(expected)


def test_engines_that_fit_and_those_that_do_not_are_all_there() -> None:
    refused = Counter[str]()
    layouts = layouts_of(SHAPE, ANYTHING, [(gpu("L4"), 1), (gpu("H100-SXM-80GB"), 8)], refused)
    engines: Engines = engines_of(SHAPE, CHATTY, layouts, refused)
    assert len(engines) + sum(refused.values()) == 21 * 4 * (1 + 10)
    assert np.all(engines.kv_tokens > 0)


def test_a_prefix_that_is_shared_leaves_room_for_more() -> None:
    sharing = Job(1000, CHATTY.prompt_tokens, CHATTY.output_tokens, shared_prefix=0.5)
    assert engines_from(SHAPE, sharing, MANY).kv_tokens[0] > engines_from(SHAPE, CHATTY, MANY).kv_tokens[0]
