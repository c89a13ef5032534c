"""The cheapest plan that is done in time: machines, how many, split over GPUs, precisions, batch, guesses.

Everything that fits is priced by its steady state; what is then worth it is played through: the cheapest of those that
are certain enough to be done in time, and some of those that nothing beats in cost and time together. Of these the
cheapest wins. What is priced does not depend on the deadline, so that by the steady state a later one never costs more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.calibration import Calibration, shipped
from optimizer.planner.certainty import about_sure_s, sure_s
from optimizer.planner.closed_form import ClosedForm
from optimizer.planner.found import Found, MemoryUse, Plan, Prediction, Priced
from optimizer.planner.interval import Stratum, bounds_of
from optimizer.planner.job import Job, Wish
from optimizer.planner.layouts import BLOCK_TOKENS, Engines, Places, engines_of, layouts_of
from optimizer.planner.levers import levers_of
from optimizer.planner.offers import USUAL, Overheads, cheapest
from optimizer.planner.pareto import front, thinned
from optimizer.planner.pricing import Desk, Plans, machine_counts
from optimizer.planner.simulated import played_seconds
from serving.engine_config import (
    Batching,
    Draft,
    EngineConfig,
    ModelShape,
    PagedCache,
    Parallelism,
    Precision,
    Speculation,
)
from serving.records import Interval

Numbers = NDArray[np.float64]

CHEAPEST, ON_THE_FRONT = 8, 8  # plans that are played through
# Engines that are kept for each GPU and number of ranks. They cost alike, so that only the fastest can be in the plan:
# with full batches, with batches that the cache has room to spare for, or with few requests.
KEPT = 12
MOST_DEARER = 4  # times: what costs more than the cheapest plan that will do is no alternative to it
FEW = 16  # of this many engines, one's share of the job is few requests


def search(
    shape: ModelShape,
    job: Job,
    wish: Wish,
    machines: Iterable[PricedMachine],
    gpu_of: Callable[[str], Gpu],
    *,
    calibration: Calibration | None = None,
    overheads: Overheads = USUAL,
    simulated: bool = True,
    seed: int = 0,
) -> Found:
    """`gpu_of` knows the machines' GPUs by name, as optimizer.catalogue.catalogue.gpu does."""
    known, refused = calibration or shipped(), Counter[str]()
    rented = tuple(machines)
    offers = cheapest(rented, wish)
    desk = desk_of(shape, job, wish, offers, gpu_of, known, overheads, refused)
    if desk is None:
        return Found(None, False, (), (), 0, dict(refused))
    plans = priced(desk)
    looked_at = _worth_a_look(desk, plans)
    told = [_told(desk, plans, int(place), simulated, seed) for place in looked_at]
    sure = [one for one in told if one.priced.prediction.on_time >= wish.certainty]
    chosen = min(
        sure or told,
        key=lambda one: (
            0.0 if sure else -one.priced.prediction.on_time,
            one.priced.prediction.cost_usd.value,
            one.sure_s,
            one.priced.plan.name,
        ),
    )
    best = front(
        np.array([one.priced.prediction.cost_usd.value for one in told]), np.array([one.sure_s for one in told])
    )
    levers = levers_of(desk, plans, chosen.place, chosen.priced, rented, known)
    pareto = tuple(told[place].priced for place in best)
    return Found(chosen.priced, bool(sure), pareto, levers, len(plans), dict(refused))


def desk_of(
    shape: ModelShape,
    job: Job,
    wish: Wish,
    offers: Sequence[PricedMachine],
    gpu_of: Callable[[str], Gpu],
    calibration: Calibration,
    overheads: Overheads,
    refused: Counter[str],
) -> Desk | None:
    """All engines that could be in the plan, on these offers; None if the model fits on nothing."""
    most: dict[str, int] = {}
    for offer in offers:
        most[offer.gpu or ""] = max(most.get(offer.gpu or "", 0), offer.gpus)
    gpus = [(gpu_of(name), count) for name, count in sorted(most.items())]
    engines = engines_of(shape, job, layouts_of(shape, wish, gpus, refused), refused)
    if not len(engines):
        return None
    speeds = ClosedForm.of(shape, job, engines, calibration)
    return Desk(shape, speeds.at(_fastest(speeds)), offers, wish, overheads)


def priced(desk: Desk) -> Plans:
    """Every engine on every offer that has room for it, in every number of machines."""
    engine, offer = desk.pairs()
    counts = np.array(machine_counts(desk.wish.most_machines), np.int64)
    return desk.price(np.repeat(engine, len(counts)), np.repeat(offer, len(counts)), np.tile(counts, len(engine)))


def _fastest(speeds: ClosedForm) -> Places:
    engines = speeds.engines
    names = {name: place for place, name in enumerate(dict.fromkeys(layout.gpu.name for layout in engines.layouts))}
    kind = np.array([names[layout.gpu.name] * 64 + layout.split.ranks for layout in engines.layouts])[engines.layout]
    full = speeds.requests_per_s
    few = (
        speeds.job.requests
        / FEW
        / np.maximum(speeds.run_seconds(np.full(len(engines), speeds.job.requests / FEW)), 1e-9)
    )
    roomy = np.where(np.asarray(speeds.full.saturated) <= 1.0, full, 0.0)
    kept = [_best_of_each(kind, speed, engines) for speed in (full, roomy, few)]
    return np.unique(np.concatenate(kept))


def _best_of_each(kind: Places, speed: Numbers, engines: Engines) -> Places:
    """The KEPT fastest of each kind; of equally fast ones those with the smallest batch."""
    order = np.lexsort((engines.batched_tokens, engines.sequences, engines.guessed, -speed, kind))
    ordered = kind[order]
    first = np.searchsorted(ordered, ordered)
    kept: Places = order[(np.arange(len(order)) - first) < KEPT]
    return kept


@dataclass(frozen=True, slots=True)
class _Told:
    priced: Priced
    place: int  # among the plans
    sure_s: float


def _worth_a_look(desk: Desk, plans: Plans) -> Places:
    """The cheapest that are certain enough, each of other hardware, split or precision; and some of the front."""
    sure = np.flatnonzero(plans.on_time >= desk.wish.certainty)
    if len(sure):
        order = sure[np.lexsort((plans.finish_s[sure], plans.usd[sure]))]
    else:
        order = np.lexsort((plans.usd, -plans.on_time))
    first: dict[tuple[int, int], int] = {}
    for place in order.tolist():
        engine = int(plans.engine[place])
        first.setdefault((int(desk.speeds.engines.layout[engine]), int(plans.offer[place])), place)
        if len(first) == CHEAPEST:
            break
    best = front(plans.usd, about_sure_s(plans.timing, desk.wish.certainty))
    best = thinned(best[plans.usd[best] <= MOST_DEARER * plans.usd[order[0]]], ON_THE_FRONT)
    return np.array(list(dict.fromkeys([*first.values(), *best.tolist()])), np.int64)


def _told(desk: Desk, plans: Plans, place: int, simulated: bool, seed: int) -> _Told:
    engine = int(plans.engine[place])
    requests = desk.speeds.job.requests / int(plans.replicas[place])
    draws = played_seconds(desk.shape, desk.speeds, engine, requests, seed=seed) if simulated else None
    run_s = plans.run_s[place : place + 1] if draws is None else draws
    again = desk.with_run(plans, place, run_s, played=draws is not None)
    timing, finish_s, usd = again.timing, float(again.finish_s.mean()), float(again.usd.mean())
    bounds_s = Interval(finish_s, sure_s(timing, 0.05), sure_s(timing, 0.95))
    each_s = usd / finish_s
    prediction = Prediction(
        cost_usd=Interval(usd, each_s * bounds_s.low_90, each_s * bounds_s.high_90),
        finish_s=bounds_s,
        on_time=float(again.on_time.mean()),
        output_tokens_per_s=_speed(desk, engine, int(plans.replicas[place])),
        running_sequences=float(np.asarray(desk.speeds.full.sequences)[engine]),
        memory=_memory(desk, engine),
        stratum=desk.speeds.strata[engine].value,
        simulated=draws is not None,
    )
    return _Told(Priced(plan_of(desk, plans, place), prediction), place, sure_s(timing, desk.wish.certainty))


def _speed(desk: Desk, engine: int, replicas: int) -> Interval:
    value = float(desk.speeds.output_tokens_per_s[engine]) * replicas
    return Interval(value, value * float(desk.speeds.low[engine]), value * float(desk.speeds.high[engine]))


def _memory(desk: Desk, engine: int) -> MemoryUse:
    one = desk.speeds.engines.one(engine)
    memory = one.layout.memory(desk.shape, one.max_num_seqs, one.max_num_batched_tokens)
    bounds = bounds_of(Stratum.MEMORY)
    return MemoryUse(
        weights_gib=memory.weights,
        cache_gib=Interval(memory.cache, memory.cache * bounds.low, memory.cache * bounds.high),
        usable_gib=memory.usable,
        kv_blocks=memory.blocks(BLOCK_TOKENS),
        kv_tokens=memory.kv_tokens(BLOCK_TOKENS),
    )


def plan_of(desk: Desk, plans: Plans, place: int) -> Plan:
    one, offer = desk.speeds.engines.one(int(plans.engine[place])), desk.offers[int(plans.offer[place])]
    layout = one.layout
    engine = EngineConfig(
        cache=PagedCache(dtype=layout.kv_dtype, memory_share=layout.utilization),
        speculation=Speculation(Draft.NGRAM, one.guessed) if one.guessed else Speculation(),
        parallelism=Parallelism(layout.split.tensor, layout.split.pipeline, data=offer.gpus // layout.split.ranks),
        # 16-bit files become FP8 as they are loaded; other precisions are files of their own.
        precision=Precision(quantize="fp8") if layout.weights == "fp8" else Precision(),
        batching=Batching(one.max_num_seqs, one.max_num_batched_tokens),
    )
    return Plan(offer, int(plans.machines[place]), layout.weights, engine)
