"""How fast each of many engines answers a job: the steady state and the tail of all of them at once, over arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.calibration import Calibration, Groups, constants_of
from optimizer.planner.guessing import GuessingCost, guessing, in_steps
from optimizer.planner.interval import Stratum, bounds_of, doubt, seen_gpus, stratum
from optimizer.planner.job import ACCEPTANCE_ASSUMED, Job
from optimizer.planner.layouts import BLOCK_TOKENS, Engines, Places
from optimizer.planner.nearby import Points, kin_of, points_of
from optimizer.planner.steady_state import (
    Cycle,
    Lengths,
    Scheduling,
    cycle,
    job_seconds,
    room,
    uneven_tail_seconds,
)
from optimizer.planner.step import Constants, StepCost, stack, step_cost
from serving.engine_config import ModelShape

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ClosedForm:
    engines: Engines
    job: Job
    cost: GuessingCost
    lengths: Lengths  # outputs in steps, which are tokens where nothing is guessed
    scheduling: Scheduling
    full: Cycle  # as many requests at once as the engine takes
    strata: tuple[Stratum, ...]  # by engine
    low: Numbers  # bounds of the speed, factors
    high: Numbers
    doubt: Numbers  # factors of the expected time

    @classmethod
    def of(cls, shape: ModelShape, job: Job, engines: Engines, calibration: Calibration) -> "ClosedForm":
        groups = [layout.groups(shape) for layout in engines.layouts]
        constants = constants_of(calibration.logs(groups))
        stacked = stack(
            [step_cost(shape, layout.gpu, layout.split, layout.weights, layout.kv_dtype) for layout in engines.layouts]
        ).calibrated(constants)
        acceptance = ACCEPTANCE_ASSUMED if job.acceptance is None else job.acceptance
        lengths = in_steps(job.lengths, engines.guessed, acceptance)
        scheduling = Scheduling(
            np.minimum(engines.sequences, job.requests),
            engines.batched_tokens,
            engines.kv_tokens,
            np.ones(len(engines)),
            np.zeros(len(engines)),
            float(BLOCK_TOKENS),
        )
        running = np.minimum(scheduling.sequences, room(lengths, scheduling))
        slower = np.exp(calibration.slower(_points(shape, engines, groups, job.lengths, running)))
        cost = guessing(replace(taken(stacked, engines.layout), slower=slower), engines.guessed)
        full = cycle(cost, lengths, scheduling)
        strata = _strata(shape, engines, np.asarray(full.saturated))
        bounds = [bounds_of(one) for one in strata]
        return cls(
            engines,
            job,
            cost,
            lengths,
            scheduling,
            full,
            strata,
            np.array([one.low for one in bounds]),
            np.array([one.high for one in bounds]),
            np.array([doubt(one) for one in strata]),
        )

    @property
    def requests_per_s(self) -> Numbers:
        return np.asarray(self.full.sequences / self.full.seconds)

    @property
    def output_tokens_per_s(self) -> Numbers:
        return self.requests_per_s * self.job.output_tokens.mean

    def at(self, places: Places) -> "ClosedForm":
        scheduling = {
            name: np.asarray(getattr(self.scheduling, name))[places]
            for name in ("sequences", "batched_tokens", "kv_tokens", "mixed", "reserves_output")
        }
        lengths = {
            name: np.asarray(getattr(self.lengths, name))[places]
            for name in ("output", "output_squared", "input_output")
        }
        full = Cycle(*(np.asarray(getattr(self.full, field.name))[places] for field in fields(Cycle)))
        return ClosedForm(
            self.engines.at(places),
            self.job,
            guessing(taken(self.cost, places), np.asarray(self.cost.guessed)[places]),
            replace(self.lengths, **lengths),
            replace(self.scheduling, **scheduling),
            full,
            tuple(self.strata[place] for place in places),
            self.low[places],
            self.high[places],
            self.doubt[places],
        )

    def run_seconds(self, requests: Numbers) -> Numbers:
        """From an engine's first step to its last, of this many requests for each engine, all there at once."""
        even = job_seconds(self.cost, self.lengths, self.scheduling, requests)
        outputs = np.asarray(self.job.output_tokens.atoms)
        return np.asarray(even) + uneven_tail_seconds(self.cost, self.lengths, self.full, requests, outputs)


def taken(cost: StepCost, places: Places) -> StepCost:
    """The stacked costs at these places, each as often as it is named."""
    figures = {
        field.name: np.asarray(getattr(cost, field.name))[places]
        for field in fields(StepCost)
        if field.name != "constants"
    }
    constants = {field.name: np.asarray(getattr(cost.constants, field.name))[places] for field in fields(Constants)}
    return StepCost(**figures, constants=Constants(**constants))


def _points(
    shape: ModelShape, engines: Engines, groups: Sequence[Groups], lengths: Lengths, running: Numbers
) -> Points:
    of_layout = [
        (kin_of(own, shape), float(layout.split.ranks)) for own, layout in zip(groups, engines.layouts, strict=True)
    ]
    kin, ranks = zip(*(of_layout[place] for place in engines.layout.tolist()), strict=True)
    same = np.ones(len(engines))
    return points_of(
        kin,
        [shape] * len(engines),
        ranks,
        running,
        same * lengths.input,
        same * lengths.output,
    )


def _strata(shape: ModelShape, engines: Engines, saturated: Numbers) -> tuple[Stratum, ...]:
    seen, moe = seen_gpus(), bool(shape.experts)
    of_layout = [
        tuple(
            stratum(vllm=True, moe=moe, seen=layout.gpu.name in seen, saturation=saturation, offline=True)
            for saturation in (0.0, 2.0)
        )
        for layout in engines.layouts
    ]
    over = (saturated > 1.0).tolist()
    return tuple(of_layout[place][full] for place, full in zip(engines.layout.tolist(), over, strict=True))
