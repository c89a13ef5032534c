"""What a job will take on this machine, from what its engines took so far: said before it runs, and held against it.

Each lane's pending rows are played through the engine's scheduler in the order in which they will be fed, with answers
drawn from those seen before, and steps that take what the machine's own took. Nothing is forecast of an engine that
this machine has not run yet: `gristmill calibrate JOB.toml` runs it on a few rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from flows.lane_work import LaneWork, lane_work
from flows.members import Rows
from flows.open import Work
from optimizer.cost import HOUR_S, MTOK
from optimizer.planner.own_lengths import drawn_like
from optimizer.planner.own_steps import StepTimes, fitted
from optimizer.planner.simulation import simulate
from optimizer.planner.step_times import OverArrays
from serving.engines.measured import EngineKey, Measured, what_is_known
from serving.engines.open import settled_for
from serving.models.folder import fingerprint_of
from serving.records import Interval, Lane

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

DRAWS = 24
FEW_DRAWS = 6  # of what is only compared
LEAST_LENGTHS = 8  # answers of this very input; with fewer, those of others are drawn from
SPEED_DEVIATION, SPEED_WEIGHT = (
    0.06,
    4,
)  # of log(measured / predicted), before forecasts of this engine have been missed
START_DEVIATION = 0.15  # of a start-up
OTHER_INPUT_DEVIATION = 0.5  # of how long answers are, where none of this input has been seen


@dataclass(frozen=True, slots=True)
class LaneForecast:
    """Factor by factor: (tokens x seconds a token + start-up) x price."""

    lane: str
    rows: int
    tokens: Interval  # computed: of prompts, but for what the prefix cache has, and of answers
    s_per_token: Interval
    start_up_s: Interval
    seconds: Interval


@dataclass(frozen=True, slots=True)
class Forecast:
    lanes: tuple[LaneForecast, ...]
    seconds: Interval  # of engines, from now to the end
    usd: Interval  # of the whole run, with what is spent already
    spent_usd: str  # exact: what is booked already, which `usd` has in it
    max_num_seqs: int
    near_saved_usd: Interval | None = None  # by near-duplicates, if their audits bear them out; `usd` has all of it


@dataclass(frozen=True, slots=True)
class Basis:
    """What a lane's forecast rests on."""

    times: StepTimes
    beside: float  # engine time over that of its steps
    start_up_s: float
    start_deviation: float  # of its logarithm, as below
    speed_deviation: float
    lengths: Counts  # (n, 3) as optimizer.planner.own_lengths has them
    of_this_input: bool  # whether these are answers to rows of it
    finished: Mapping[int, int] = field(default_factory=dict)  # by row, known output tokens of an answer


def forecast(
    work: Work,
    lanes: Sequence[tuple[Lane, Rows, Basis]],
    spent_usd: Decimal,
    slots: int | None = None,
    draws: int = DRAWS,
) -> Forecast:
    """Of these rows in these lanes, one after the other, after what is spent; `slots` is another number of sequences at
    once."""
    generators = np.random.default_rng(0).spawn(len(lanes))
    drawn = [
        _drawn(lane_work(work, lane, rows, slots), basis, generator, draws)
        for (lane, rows, basis), generator in zip(lanes, generators, strict=True)
    ]
    slots = slots or work.job.engine.max_num_seqs
    return _forecast(work, [(lane, len(rows)) for lane, rows, _ in lanes], drawn, spent_usd, slots)


def bases(work: Work, lanes: Sequence[Lane], after_another: bool = False) -> list[Basis] | None:
    """For each lane in turn, the first of them `after_another` or not; None where this machine has not run one of their
    engines."""
    if not work.job.computes_here:
        return None
    found = [what_is_known(engine_of(work, lane)) for lane in lanes]
    known = [one for one in found if one is not None and one.evidence.steps]
    if len(known) < len(lanes):
        return None
    return [_basis(work, one, first=not (place or after_another)) for place, one in enumerate(known)]


def _basis(work: Work, known: Measured, first: bool) -> Basis:
    own = known.lengths.get(work.facts["input"]["sha256"], ())
    others = tuple(row for rows in known.lengths.values() for row in rows)
    of_this_input = len(own) >= LEAST_LENGTHS
    starts = (known.first_start_s, known.next_start_s) if first else (known.next_start_s, known.first_start_s)
    squares = SPEED_WEIGHT * SPEED_DEVIATION**2 + sum(miss**2 for miss in known.misses)
    return Basis(
        times=fitted(known.evidence),
        beside=max(1.0, known.ran_s / known.evidence.seconds),
        start_up_s=next((start for start in starts if start is not None), 0.0),
        start_deviation=START_DEVIATION,
        speed_deviation=math.sqrt(squares / (SPEED_WEIGHT + len(known.misses))),
        lengths=np.array(own if of_this_input else others, np.int64).reshape(-1, 3),
        of_this_input=of_this_input,
    )


def in_words(told: Forecast) -> str:
    seconds, usd = told.seconds, told.usd
    return (
        f"{seconds.value:.0f} s of engine time ({seconds.low_90:.0f} to {seconds.high_90:.0f}),"
        f" ${usd.value:.6f} in all ({usd.low_90:.6f} to {usd.high_90:.6f})"
    )


def engine_of(work: Work, lane: Lane) -> EngineKey:
    config, machine = settled_for(work.job.engine, lane, work.models[lane.name], work.adapters)
    return EngineKey.of(fingerprint_of(work.facts["models"][lane.name]), config, machine)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Of one lane, a figure for each draw."""

    tokens: Floats
    engine_s: Floats
    start_up_s: Floats
    prompt_tokens: Floats  # as they are billed where tokens are
    output_tokens: Floats


def _drawn(lane: LaneWork, basis: Basis, generator: np.random.Generator, draws: int) -> _Drawn:
    speed = np.exp(generator.normal(0.0, basis.speed_deviation, draws))
    start_up_s = basis.start_up_s * np.exp(generator.normal(0.0, basis.start_deviation, draws))
    figures: list[tuple[float, float, float]] = []
    for _ in range(draws):
        outputs = drawn_outputs(lane, basis, generator)
        played = replace(lane.requests, output_tokens=outputs)
        ended = simulate(played, lane.config.batching, lane.kv, OverArrays(basis.times.seconds))
        tokens = ended.prefilled_tokens + ended.generated_tokens
        figures.append((float(tokens), ended.makespan_s * basis.beside, float(outputs.sum())))
    tokens_of, engine_s, outputs_of = (np.array(column) * lane.stands_for for column in zip(*figures, strict=True))
    _, first = np.unique(lane.rows, return_index=True)
    prompts = np.full(draws, float(lane.requests.prompt_tokens[first].sum()) * lane.stands_for)
    return _Drawn(tokens_of, engine_s * speed, start_up_s, prompts, outputs_of)


def drawn_outputs(lane: LaneWork, basis: Basis | None, generator: np.random.Generator) -> Counts:
    """Output tokens of each request; where nothing is known, a half of what it may put out, give or take."""
    most = lane.requests.output_tokens
    if basis is None:
        return np.maximum(1, most // 2)
    wide = 1.0 if basis.of_this_input else math.exp(generator.normal(0.0, OTHER_INPUT_DEVIATION))
    if len(basis.lengths):
        drawn = drawn_like(basis.lengths, lane.requests.prompt_tokens, most, generator)
    else:
        drawn = np.maximum(1, most // 2)
    outputs = drawn if wide == 1.0 else np.clip(drawn * wide, 1, most).astype(np.int64)
    if basis.finished:
        told = np.array([basis.finished.get(row, 0) for row in lane.rows.tolist()], np.int64)
        outputs = np.where(told > 0, told, outputs)
    return outputs


def _forecast(
    work: Work, lanes: Sequence[tuple[Lane, int]], drawn: Sequence[_Drawn], spent_usd: Decimal, slots: int
) -> Forecast:
    each = tuple(
        LaneForecast(
            lane.name, rows, _told(one.tokens), _told(one.engine_s / one.tokens), _told(one.start_up_s),
            _told(one.engine_s + one.start_up_s),
        )
        for (lane, rows), one in zip(lanes, drawn, strict=True)
    )  # fmt: skip
    seconds = np.sum([one.engine_s + one.start_up_s for one in drawn], axis=0)
    price = work.price
    if price.bills_time:
        assert price.usd_per_hour is not None
        usd = seconds * float(price.usd_per_hour / HOUR_S)
    else:
        assert price.input_usd_per_mtok is not None
        assert price.output_usd_per_mtok is not None
        prompts = np.sum([one.prompt_tokens for one in drawn], axis=0)
        outputs = np.sum([one.output_tokens for one in drawn], axis=0)
        usd = prompts * float(price.input_usd_per_mtok / MTOK) + outputs * float(price.output_usd_per_mtok / MTOK)
    return Forecast(each, _told(seconds), _told(usd + float(spent_usd)), str(spent_usd), slots)


def _told(draws: Floats) -> Interval:
    low, high = np.quantile(draws, [0.05, 0.95])
    return Interval(float(np.mean(draws)), float(low), float(high))
