"""`gristmill plan`: what a job will cost, before an engine is asked for anything, and what else it could cost.

Admission, collapse and routing are done in the run itself, which `gristmill run` goes on with: nothing is done twice.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from flows.decisions import DECISIONS
from flows.elsewhere import elsewhere
from flows.forecast import FEW_DRAWS, Basis, Forecast, bases, forecast, in_words
from flows.lane import lanes_to_run
from flows.members import Rows, done_rows, most_pending_rows, ran_any
from flows.open import Work
from flows.paying import near_saving, saving_in_words
from flows.settlement import book_the_past
from flows.terminal import in_columns
from optimizer.planner.found import Found, Priced
from optimizer.planner.interval import seen_gpus
from optimizer.route import ToQuantized
from optimizer.route import route as lane_of
from serving.engines.open import check_engine
from serving.records import Interval, Lane
from serving.store.predictions import write_prediction

SLOTS = (8, 16, 32, 64, 128)  # sequences at once that are tried
ROUTES: tuple[ToQuantized, ...] = ("none", "short", "all")
LEAST_GAIN = 0.02  # of the cost, for which another setting than the usual one is taken
MOST_RENTED = 6  # of the plans on rented machines, that are shown
MOST_ROWS = 100_000  # of a job whose alternatives are played through; of a larger one only the job as it stands

Pending = Sequence[tuple[Lane, Rows]]


@dataclass(frozen=True, slots=True)
class Alternative:
    """The same job otherwise: what to set, and what it would take."""

    setting: str
    seconds: Interval
    usd: Interval


@dataclass(frozen=True, slots=True)
class Plan:
    run_id: str
    rows_in: int
    refused: int
    duplicates: int  # rows that share the answer of one that is to run
    done: int
    to_run: int
    engine: str
    forecast: Forecast | None  # None: this machine has not run one of the engines yet, or they run elsewhere
    alternatives: tuple[Alternative, ...] = ()  # on this machine, the cheapest first
    rented: Found | None = None  # the same on machines that can be rented; None: there is no local model to look at

    def as_json(self) -> dict[str, Any]:
        told = asdict(replace(self, rented=None))
        return {**told, "rented": None if self.rented is None else _rented_as_json(self.rented)}

    def __str__(self) -> str:
        return "\n".join([*_rows(self), "", *_lanes(self), *_alternatives(self), *_rented(self), *_next(self)])


def plan(work: Work) -> Plan:
    """Raises what `answer_work` raises before it starts an engine."""
    for name, model in work.models.items():
        check_engine(work.job.engine, work.job.lanes[name], model, work.adapters)
    with work.held():
        book_the_past(work)
        for stage in DECISIONS:
            stage(work)
        every = [(lane, most_pending_rows(work, lane)) for lane in lanes_to_run(work)]
        lanes = [(lane, pending) for lane, pending in every if len(pending)]
        played = choose(work, lanes)
        told = plan_ahead(work, lanes)
        admitted = work.run.stage(work.run.admitted)
        to_run, done = sum(len(rows) for _, rows in lanes), len(done_rows(work))
        rows = admitted.rows("requests")
        return Plan(
            run_id=work.run.run_id,
            rows_in=rows + admitted.rows("refusals"),
            refused=admitted.rows("refusals"),
            duplicates=rows - done - to_run,
            done=done,
            to_run=to_run,
            engine=work.job.engine.kind,
            forecast=told,
            rented=elsewhere(work, lanes, bases(work, [lane for lane, _ in lanes])) if lanes and work.models else None,
            alternatives=() if told is None or to_run > MOST_ROWS else tuple(_tried(work, lanes, played)),
        )


def choose(work: Work, lanes: Pending) -> dict[int, Forecast]:
    """What the job leaves open is settled: how many sequences run at once, by what costs least of what is in time.
    Returns what each number would take, as far as that was looked at."""
    basis = bases(work, [lane for lane, _ in lanes])
    if "max_num_seqs" in work.job.engine.model_fields_set or not lanes or basis is None:
        return {}
    stated = work.job.engine.max_num_seqs
    tried = {
        slots: forecast(work, _with(lanes, basis), work.run.spent_usd(), slots, FEW_DRAWS)
        for slots in sorted({stated, *SLOTS})
    }
    left_s = work.limits.left_s
    in_time = {slots: told for slots, told in tried.items() if told.seconds.high_90 <= left_s}
    best = min(in_time or tried, key=lambda slots: tried[slots].usd.value if in_time else tried[slots].seconds.value)
    gain = tried[best].usd.value / tried[stated].usd.value if tried[stated].usd.value else 1.0
    if best == stated or (stated in in_time and gain > 1 - LEAST_GAIN):
        return tried
    engine = work.job.engine.model_copy(update={"max_num_seqs": best})
    work.job = work.job.model_copy(update={"engine": engine})
    work.progress.say(f"engine.max_num_seqs = {best} is chosen: {gain:.2f} times the cost of {stated}")
    return tried


def plan_ahead(work: Work, lanes: Pending) -> Forecast | None:
    """Forecast what is pending, and say it; a run that has answered nothing yet keeps the forecast, to be held to."""
    basis = bases(work, [lane for lane, _ in lanes])
    if not lanes or basis is None:
        return None
    told = forecast(work, _with(lanes, basis), work.run.spent_usd())
    told = replace(told, near_saved_usd=near_saving(work, lanes, told))
    if not ran_any(work):
        write_prediction(work.run, "plan", told)
    work.expected_s = {lane.lane: lane.seconds.value for lane in told.lanes}
    work.progress.say(f"expected: {in_words(told)}")
    if told.near_saved_usd is not None:
        work.progress.say(saving_in_words(told.near_saved_usd))
    return told


def _with(lanes: Pending, basis: Sequence[Basis]) -> list[tuple[Lane, Rows, Basis]]:
    return [(lane, rows, at) for (lane, rows), at in zip(lanes, basis, strict=True)]


def _tried(work: Work, lanes: Pending, played: dict[int, Forecast]) -> list[Alternative]:
    """Other routes, where nothing has been answered yet, and other numbers of sequences at once, the cheapest first."""
    found = [(f'route.to_quantized = "{to}"', _otherwise(work, _routed(work, lanes, to), None)) for to in _routes(work)]
    for slots in SLOTS:
        if slots != work.job.engine.max_num_seqs:
            found.append((f"engine.max_num_seqs = {slots}", played.get(slots) or _otherwise(work, lanes, slots)))
    told = [Alternative(setting, one.seconds, one.usd) for setting, one in found if one is not None]
    return sorted(told, key=lambda one: one.usd.value)


def _routes(work: Work) -> list[ToQuantized]:
    if work.job.model.quantized is None or ran_any(work):
        return []
    return [to for to in ROUTES if to != work.job.route.to_quantized]


def _routed(work: Work, lanes: Pending, to: ToQuantized) -> Pending:
    rows = np.sort(np.concatenate([rows for _, rows in lanes]))
    chosen: dict[str, list[int]] = {name: [] for name in work.job.lanes}
    for part in work.run.stage(work.run.admitted).tables("requests", ["row", "prompt_tokens", "adapter"]):
        for request in part.filter(pa.array(np.isin(part["row"].to_numpy(), rows))).to_pylist():
            rule: ToQuantized = "none" if request["adapter"] else to
            lane = lane_of(request["prompt_tokens"], rule, work.job.route.short_prompt_tokens).lane
            chosen[lane].append(request["row"])
    return [(lane, np.array(chosen[name], np.int64)) for name, lane in work.job.lanes.items() if chosen[name]]


def _otherwise(work: Work, lanes: Pending, slots: int | None) -> Forecast | None:
    if (basis := bases(work, [lane for lane, _ in lanes])) is None:
        return None
    return forecast(work, _with(lanes, basis), work.run.spent_usd(), slots, FEW_DRAWS)


def _rows(told: Plan) -> list[str]:
    shared = f"{told.duplicates} that share another's answer"
    done = f" + {told.done} settled already" if told.done else ""
    return [
        f"gristmill  {told.run_id}  planned",
        f"  rows in     {told.rows_in:>6} = {told.to_run} to run + {shared} + {told.refused} refused{done}",
    ]


def _lanes(told: Plan) -> list[str]:
    if told.forecast is None and told.engine != "vllm":
        return [f'  no forecast: engine.kind = "{told.engine}"; only engines that run on this machine are forecast']
    if told.forecast is None:
        return ["  no forecast: this machine has not run these engines yet; `gristmill calibrate JOB.toml` does"]
    heading = ("lane", "to run", "tokens to compute", "us a token", "start-up s", "engine s", "90 % of the time")
    cells = [
        (
            lane.lane, str(lane.rows), f"{lane.tokens.value:.0f}", f"{lane.s_per_token.value * 1e6:.0f}",
            f"{lane.start_up_s.value:.1f}", f"{lane.seconds.value:.1f}", _interval(lane.seconds, 1),
        )
        for lane in told.forecast.lanes
    ]  # fmt: skip
    table = in_columns([heading, *cells], [False, *[True] * (len(heading) - 1)])
    spent = f"            ${told.forecast.spent_usd} of it is spent already" if float(told.forecast.spent_usd) else None
    at_once = f"  {told.forecast.max_num_seqs} sequences at once"
    return [
        *(f"  {line}" for line in table),
        at_once,
        "",
        f"  expected  {in_words(told.forecast)}",
        *([spent] if spent else []),
        *([f"            {saving_in_words(near)}"] if (near := told.forecast.near_saved_usd) is not None else []),
    ]


def _alternatives(told: Plan) -> list[str]:
    if told.forecast is None or not told.alternatives:
        return []
    here = told.forecast.usd.value
    heading = ("otherwise, on this machine", "engine s", "usd", "90 % of the time", "cost")
    cells = [
        (one.setting, f"{one.seconds.value:.1f}", f"{one.usd.value:.6f}", _interval(one.usd, 6),
         f"{one.usd.value / here:.2f}x" if here else "-")
        for one in told.alternatives
    ]  # fmt: skip
    return ["", *(f"  {line}" for line in in_columns([heading, *cells], [False, True, True, True, True]))]


def _rented(told: Plan) -> list[str]:
    """The plans of which none is both cheaper and sooner done, and why the cheapest is as it is."""
    if told.rented is None or told.rented.chosen is None:
        return []
    heading = ("on rented machines, full model", "usd", "90 % of the time", "done in s", "90 % of the time")
    cells = [
        (one.plan.name, f"{one.prediction.cost_usd.value:.4f}", _interval(one.prediction.cost_usd, 4),
         f"{one.prediction.finish_s.value:.0f}", _interval(one.prediction.finish_s, 0))
        for one in told.rented.pareto[:MOST_RENTED]
    ]  # fmt: skip
    table = in_columns([heading, *cells], [False, True, True, True, True])
    why = [f"    {lever.name}: {lever.reason}" for lever in told.rented.levers]
    considered = f"  {told.rented.considered} plans priced; the first because:"
    return ["", *(f"  {line}" for line in table), *_unmeasured(told.rented.pareto[:MOST_RENTED]), considered, *why]


def _unmeasured(shown: Sequence[Priced]) -> list[str]:
    """Which of these GPUs the figures rest on a datasheet alone."""
    gpus = dict.fromkeys(one.plan.machine.gpu or "" for one in shown)
    if not (unseen := [name for name in gpus if name not in seen_gpus()]):
        return []
    return [f"  no measurement of {', '.join(unseen)} is known: datasheet and kernels of its kin, with wider bounds"]


def _rented_as_json(found: Found) -> dict[str, Any]:
    told = [{"plan": one.plan.name, "cost_usd": asdict(one.prediction.cost_usd),
             "finish_s": asdict(one.prediction.finish_s), "on_time": one.prediction.on_time,
             "bounds_of": one.prediction.stratum}
            for one in found.pareto]  # fmt: skip
    return {
        "on_time": found.on_time,
        "plans": told,
        "levers": [asdict(lever) for lever in found.levers],
        "considered": found.considered,
    }


def _interval(figure: Interval, digits: int) -> str:
    return f"{figure.low_90:.{digits}f} to {figure.high_90:.{digits}f}"


def _next(told: Plan) -> list[str]:
    return ["", "  next      gristmill run JOB.toml, which goes on from here"]
