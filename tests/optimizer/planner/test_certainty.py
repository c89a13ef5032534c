"""How sure a plan is to be done in time."""

from dataclasses import replace
from math import inf
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.certainty import (
    Timing,
    about_sure_s,
    deviations,
    mean_factor,
    normal_share,
    on_time,
    sure_s,
)

LOW, HIGH = 0.8, 1.3
SLOWER, FASTER = deviations(LOW, HIGH, 0.0)
PLAN = Timing(start_s=300.0, run_s=1000.0, slower=SLOWER, faster=FASTER, losses=0.0, loss_s=0.0)
seconds = st.floats(1.0, 1e5)


@given(z=st.floats(-8, 8))
def test_the_normal_distribution_is_that_of_the_standard_library(z: float) -> None:
    assert normal_share(z) == pytest.approx(NormalDist().cdf(z), abs=2e-7)


def test_the_bounds_of_a_speed_are_passed_one_time_in_twenty_on_either_side() -> None:
    assert on_time(PLAN, 300 + 1000 / LOW) == pytest.approx(0.95, abs=1e-6)
    assert on_time(PLAN, 300 + 1000 / HIGH) == pytest.approx(0.05, abs=1e-6)
    assert on_time(PLAN, 1300) == pytest.approx(0.5)


@given(one=seconds, other=seconds, losses=st.sampled_from([0.0, 0.3, 3.0, 50.0]))
def test_more_time_is_never_less_certain(one: float, other: float, losses: float) -> None:
    plan = replace(PLAN, losses=losses, loss_s=200.0)
    assert on_time(plan, min(one, other)) <= on_time(plan, max(one, other)) + 1e-12


@given(deadline_s=seconds, losses=st.floats(0, 60))
def test_machines_that_can_be_lost_are_never_more_certain(deadline_s: float, losses: float) -> None:
    # Beyond MOST_LOSSES / 2 their number is normal, which is near enough but no law.
    assert on_time(replace(PLAN, losses=losses, loss_s=400.0), deadline_s) <= on_time(PLAN, deadline_s) + 2e-3


def test_losses_are_counted_as_poisson_does() -> None:
    exact = replace(PLAN, slower=1e-9, faster=1e-9, losses=1.0, loss_s=100.0)
    shares = [float(on_time(exact, 1300 + 100 * lost + 50)) for lost in range(3)]
    assert shares == pytest.approx([np.exp(-1), 2 * np.exp(-1), 2.5 * np.exp(-1)], abs=1e-9)


def test_a_deadline_before_the_start_is_not_met() -> None:
    assert on_time(PLAN, 299.0) == 0.0
    assert on_time(PLAN, inf) == 1.0


@pytest.mark.parametrize("losses", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("certainty", [0.05, 0.5, 0.95, 0.999])
def test_done_by_when_it_is_sure_to_be_done(certainty: float, losses: float) -> None:
    plan = replace(PLAN, losses=losses, loss_s=60.0)
    assert on_time(plan, sure_s(plan, certainty)) == pytest.approx(certainty, abs=1e-3)


@pytest.mark.parametrize("losses", [0.0, 5.0])
def test_the_rough_time_is_near_the_exact_one(losses: float) -> None:
    plan = replace(PLAN, losses=losses, loss_s=60.0)
    assert about_sure_s(plan, 0.95) == pytest.approx(sure_s(plan, 0.95), rel=0.1)


def test_the_mean_over_draws_is_that_of_a_sample() -> None:
    drawn = np.random.default_rng(0).standard_normal(200_000)
    times = np.exp(np.where(drawn > 0, drawn * SLOWER, drawn * FASTER))
    assert mean_factor(SLOWER, FASTER) == pytest.approx(times.mean(), rel=2e-3)
