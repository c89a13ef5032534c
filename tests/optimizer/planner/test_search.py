"""The cheapest plan that is done in time."""

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, machines, model
from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.calibration import NONE, shipped
from optimizer.planner.found import Found, Priced
from optimizer.planner.job import Job, TokenCounts, Wish
from optimizer.planner.offers import USUAL, Overheads, cheapest
from optimizer.planner.search import desk_of, priced, search
from tests.optimizer.planner.jobs import ANYTHING, CHATTY, FEW, SMALL, cheaper, found, machine, usd

HOUR_S = 3600.0
deadlines = st.floats(400, 48 * HOUR_S)
SLOW = settings(max_examples=8, deadline=None)


def chosen(of: Found) -> Priced:
    assert of.chosen is not None
    return of.chosen


@SLOW
@given(place=st.integers(0, len(FEW) - 1), factor=st.sampled_from(["0.1", "0.5", "0.9", "0.99"]), deadline_s=deadlines)
def test_a_cheaper_price_never_makes_the_plan_dearer(place: int, factor: str, deadline_s: float) -> None:
    wish = replace(ANYTHING, deadline_s=deadline_s, spot=True)
    before, after = found(wish), found(wish, fleet=cheaper(FEW, place, factor))
    assert not before.on_time or usd(after) <= usd(before) * (1 + 1e-9)


@SLOW
@given(deadline_s=deadlines, later=st.floats(1.0, 3.0))
def test_a_later_deadline_never_costs_more(deadline_s: float, later: float) -> None:
    tight, loose = (found(replace(ANYTHING, deadline_s=limit)) for limit in (deadline_s, later * deadline_s))
    assert loose.on_time >= tight.on_time
    assert not tight.on_time or usd(loose) <= usd(tight) * (1 + 1e-9)


@SLOW
@given(deadline_s=deadlines)
def test_more_that_is_allowed_never_costs_more(deadline_s: float) -> None:
    wish = replace(ANYTHING, deadline_s=deadline_s)
    every = found(replace(wish, spot=True))
    for fewer in (wish, replace(wish, spot=True, weights=("bf16",)), replace(wish, spot=True, kv_dtypes=("auto",))):
        some = found(fewer)
        # Each GPU and number of ranks keeps its fastest engines only: those of 16 bits are then fewer.
        assert not some.on_time or usd(every) <= usd(some) * 1.01


@SLOW
@given(deadline_s=deadlines, simulated=st.booleans())
def test_the_chosen_plan_is_never_dominated(deadline_s: float, simulated: bool) -> None:
    of = found(replace(ANYTHING, deadline_s=deadline_s, spot=True), SMALL, simulated=simulated)
    best = chosen(of).prediction
    assert not of.on_time or best.on_time >= 0.95
    cheaper_ones = [one for one in of.pareto if one.prediction.cost_usd.value < best.cost_usd.value]
    assert not of.on_time or all(one.prediction.on_time < 0.95 for one in cheaper_ones)


def test_the_alternatives_get_dearer_as_they_get_faster() -> None:
    table = found(replace(ANYTHING, spot=True), simulated=True).pareto
    costs = [one.prediction.cost_usd.value for one in table]
    sure = [one.prediction.finish_s.high_90 for one in table]
    assert len(table) > 1
    assert costs == sorted(costs)
    assert sure == sorted(sure, reverse=True)


def test_the_chosen_plan_is_among_the_alternatives_unless_a_cheaper_one_is_too_slow() -> None:
    of = found(replace(ANYTHING, deadline_s=24 * HOUR_S), simulated=True)
    assert chosen(of) in of.pareto


def test_a_tighter_deadline_takes_more_machines() -> None:
    plans = [chosen(found(replace(ANYTHING, deadline_s=limit), fleet=FEW[3:4])).plan for limit in (4 * HOUR_S, 900.0)]
    assert plans[0].machines < plans[1].machines


def test_the_least_number_of_machines_that_are_certain_enough_is_taken() -> None:
    wish = replace(ANYTHING, deadline_s=1000.0, most_machines=16)
    best = chosen(found(wish, fleet=FEW[3:4]))
    lever = next(one for one in found(wish, fleet=FEW[3:4]).levers if one.name == "replicas")
    assert best.prediction.on_time >= 0.95
    assert f"{best.plan.machines - 1} would cost" in lever.reason
    assert float(lever.reason.split("with probability ")[1][:4]) < 0.95


def test_a_deadline_that_nothing_meets_gets_the_likeliest_plan_and_is_told() -> None:
    of = found(replace(ANYTHING, deadline_s=120.0))
    assert not of.on_time
    assert chosen(of).prediction.on_time < 0.95


def test_what_does_not_fit_is_not_offered_and_is_counted_with_its_reason() -> None:
    of = found(replace(ANYTHING, weights=("bf16",)), name="Llama-3.1-70B", fleet=FEW)
    assert of.refused["weights and activations leave no memory for the KV cache"] > 0
    offered = [one.plan for one in of.pareto]
    assert offered
    assert all(plan.engine.parallelism.ranks * 80 >= 141 for plan in offered)


def test_a_model_that_fits_nowhere_gets_no_plan_but_reasons() -> None:
    of = found(replace(ANYTHING, weights=("bf16",)), name="Llama-3.1-405B", fleet=FEW[:1])
    assert of.chosen is None
    assert sum(of.refused.values()) > 0


def test_a_request_longer_than_the_cache_is_a_reason() -> None:
    long = Job(10, TokenCounts.fixed(100_000), TokenCounts.fixed(10))
    of = found(replace(ANYTHING, weights=("bf16",), kv_dtypes=("auto",)), long, fleet=FEW[:1])
    assert of.chosen is None
    assert "the KV cache is too small for the longest request" in of.refused


def test_a_request_longer_than_the_models_context_is_a_reason() -> None:
    of = found(job=Job(10, TokenCounts.fixed(2_000_000), TokenCounts.fixed(10)))
    assert of.chosen is None
    assert "the longest request is longer than the model's context" in of.refused


def test_only_allowed_precisions_and_kinds_of_machines_are_chosen() -> None:
    of = found(replace(ANYTHING, weights=("bf16",), kv_dtypes=("auto",)))
    assert {one.plan.weights for one in of.pareto} == {"bf16"}
    assert {one.plan.engine.cache.dtype for one in of.pareto} == {"auto"}
    assert not any(one.plan.machine.spot for one in of.pareto)


def test_whole_machines_are_billed_from_start_to_end() -> None:
    best = chosen(found(fleet=(machine("H100-SXM-80GB", 8, "36.00"),)))
    hours = best.prediction.finish_s.value / HOUR_S
    assert best.prediction.cost_usd.value == pytest.approx(best.plan.machines * 36.0 * hours, rel=2e-3)
    assert best.plan.engine.parallelism.data * best.plan.engine.parallelism.ranks <= 8
    assert best.prediction.finish_s.low_90 > USUAL.boot_s + USUAL.engine_s


def test_a_machine_that_takes_long_to_start_makes_many_of_them_dear() -> None:
    slow = replace(USUAL, boot_s=3600.0)
    shape, wish = model("Llama-3.1-8B").shape, replace(ANYTHING, deadline_s=3 * HOUR_S)
    quick_start = search(shape, CHATTY, wish, FEW, gpu, simulated=False)
    slow_start = search(shape, CHATTY, wish, FEW, gpu, simulated=False, overheads=slow)
    assert usd(slow_start) > usd(quick_start)
    assert chosen(slow_start).plan.machines <= chosen(quick_start).plan.machines


def test_spot_machines_that_are_lost_often_are_not_worth_it() -> None:
    shape, fleet = model("Llama-3.1-8B").shape, FEW[4:]
    wish = replace(ANYTHING, deadline_s=2 * HOUR_S, spot=True)
    safe, wild = (
        search(shape, CHATTY, wish, fleet, gpu, simulated=False, overheads=Overheads(spot_loss_per_hour=rate))
        for rate in (0.05, 20.0)
    )
    assert chosen(safe).plan.machine.spot
    assert not chosen(wild).plan.machine.spot


@pytest.mark.parametrize("name", ["Qwen3-32B", "Mixtral-8x7B", "gpt-oss-120b", "DeepSeek-V3", "gemma-2-9b"])
def test_every_family_of_models_gets_a_plan(name: str) -> None:
    of = found(replace(ANYTHING, weights=("bf16", "fp8", "w4a16")), SMALL, name, fleet=FEW[3:], simulated=True)
    if of.chosen is None:
        assert name == "DeepSeek-V3"  # 671 B on 8 x 80 GB
    else:
        assert of.chosen.prediction.cost_usd.low_90 <= usd(of) <= of.chosen.prediction.cost_usd.high_90


def test_the_same_question_gets_the_same_answer() -> None:
    first, second = (search(model("Llama-3.1-8B").shape, SMALL, ANYTHING, FEW, gpu) for _ in range(2))
    assert first == second


def test_levers_each_have_one_sentence_with_a_figure_or_a_reason() -> None:
    of = found(replace(ANYTHING, deadline_s=2 * HOUR_S), simulated=True)
    names = [lever.name for lever in of.levers]
    wanted = {"quantization", "KV cache", "tensor parallelism", "pipeline parallelism", "speculation"}
    assert wanted | {"max_num_seqs", "token budget", "spot", "replicas", "hardware"} == set(names)
    for lever in of.levers:
        assert "\n" not in lever.reason
        assert lever.cost_ratio is None or "x" in lever.reason or "the same" in lever.reason


def test_no_lever_that_may_be_turned_would_have_been_cheaper() -> None:
    """By the steady state, which both are priced by."""
    of = found(replace(ANYTHING, deadline_s=2 * HOUR_S, spot=True))
    dearer = [lever for lever in of.levers if lever.cost_ratio is not None and "but is not" not in lever.reason]
    assert [
        lever for lever in dearer if lever.name not in {"speculation", "replicas"} and lever.cost_ratio < 0.99
    ] == []


def test_speculation_is_taken_where_few_sequences_run_and_most_guesses_are_right() -> None:
    few = Job(4, TokenCounts.fixed(200), TokenCounts.fixed(2000), acceptance=0.8)
    best = chosen(found(replace(ANYTHING, most_machines=1), few, "Llama-3.1-70B"))
    assert best.plan.engine.speculation.tokens > 0
    assert best.plan.engine.speculation.draft == "ngram"


def test_speculation_is_off_where_arithmetic_bounds_a_full_batch() -> None:
    many = Job(200_000, TokenCounts.fixed(30), TokenCounts.fixed(100), acceptance=0.3)
    of = found(ANYTHING, many)
    assert chosen(of).plan.engine.speculation.draft == "off"
    lever = next(lever for lever in of.levers if lever.name == "speculation")
    assert lever.cost_ratio is not None
    assert lever.cost_ratio > 1.1
    assert "running sequences" in lever.reason


def test_a_shared_prefix_makes_a_job_cheaper() -> None:
    assert usd(found(job=replace(CHATTY, shared_prefix=0.8))) < usd(found())


def test_ten_thousand_plans_are_priced_in_under_two_seconds() -> None:
    """Of the processor; a third of it is what it takes here."""
    wish = Wish(deadline_s=2 * HOUR_S, spot=True, weights=("bf16", "fp8", "w4a16"), kv_dtypes=("auto", "fp8"))
    shape, known, refused = model("Llama-3.1-70B").shape, shipped(), Counter[str]()
    offers = cheapest(machines(), wish)

    def cpu_s() -> tuple[float, int]:
        began = time.process_time()
        desk = desk_of(shape, CHATTY, wish, offers, gpu, known, USUAL, refused)
        assert desk is not None
        count = len(priced(desk))
        return time.process_time() - began, count

    seconds, count = min(cpu_s() for _ in range(2))
    assert count > 10_000
    assert seconds * 10_000 / count < 2.0


def test_a_card_that_nobody_measured_is_less_sure_and_dearer_than_its_measured_twin() -> None:
    known = gpu("H100-SXM-80GB")
    twin = replace(known, name="H100 of ours")  # in all but that others have measured it
    cards = {one.name: one for one in (known, twin)}
    fleet = tuple(machine(name, 1, "3.50") for name in cards)
    shape, wish = model("Llama-3.1-8B").shape, Wish(most_machines=1)

    def best(of: tuple[PricedMachine, ...], wish: Wish) -> Priced:
        return chosen(search(shape, CHATTY, wish, of, cards.__getitem__, calibration=NONE, simulated=False))

    either = best(fleet, wish)
    assert either.plan.machine.gpu == known.name
    in_time = replace(wish, deadline_s=1.2 * either.prediction.finish_s.value, certainty=0.5)
    measured, guessed = (best((one,), in_time).prediction for one in fleet)
    assert (measured.stratum, guessed.stratum) == ("offline job", "offline job, unseen GPU")
    assert guessed.on_time < measured.on_time
    assert guessed.cost_usd.value > measured.cost_usd.value
    assert guessed.cost_usd.high_90 > measured.cost_usd.high_90
    assert guessed.cost_usd.low_90 < measured.cost_usd.low_90
    assert guessed.output_tokens_per_s.value == measured.output_tokens_per_s.value
