"""What plans cost and when they are done: engines on machines, a number of them, billed whole from start to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.certainty import Timing, deviations, mean_factor, on_time
from optimizer.planner.closed_form import ClosedForm
from optimizer.planner.job import Wish
from optimizer.planner.layouts import Places
from optimizer.planner.memory import GIB
from optimizer.planner.offers import HOUR_S, Overheads
from serving.engine_config import ModelShape

Numbers = NDArray[np.float64]
AT_ONCE = 16384  # plans: what a step of so many takes stays in a processor's cache


@dataclass(frozen=True)
class Plans:
    """By column; `engine` and `offer` are places in the lists that they were made of."""

    engine: Places
    offer: Places
    machines: Places
    replicas: Places
    run_s: Numbers
    timing: Timing
    finish_s: Numbers  # expected
    usd: Numbers  # expected
    on_time: Numbers  # probability

    def __len__(self) -> int:
        return len(self.engine)


@dataclass(frozen=True)
class Desk:
    """Prices plans of these engines on these offers."""

    shape: ModelShape
    speeds: ClosedForm
    offers: Sequence[PricedMachine]
    wish: Wish
    overheads: Overheads

    def pairs(self) -> tuple[Places, Places]:
        """(engine, offer) for every offer that has the engine's GPU, and enough of them."""
        engines = self.speeds.engines
        gpu = np.array([layout.gpu.name for layout in engines.layouts])[engines.layout]
        ranks = self._ranks()
        found = [
            (np.flatnonzero((gpu == offer.gpu) & (ranks <= offer.gpus)), place)
            for place, offer in enumerate(self.offers)
        ]
        engine = np.concatenate([each for each, _ in found]) if found else np.empty(0, np.int64)
        offer = np.repeat(np.array([place for _, place in found], np.int64), [len(each) for each, _ in found])
        return engine, offer

    def price(self, engine: Places, offer: Places, machines: Places) -> Plans:
        """Leaves out plans with machines that would have nothing to do."""
        on_machine = self._gpus()[offer] // self._ranks()[engine]
        useful = (machines == 1) | ((machines - 1) * on_machine < self.speeds.job.requests)
        engine, offer, machines, on_machine = (column[useful] for column in (engine, offer, machines, on_machine))
        replicas = machines * on_machine
        return self._priced(engine, offer, machines, replicas, self._run_seconds(engine, replicas))

    def with_run(self, plans: Plans, place: int, run_s: Numbers, played: bool) -> Plans:
        """One of the plans again, a row for each of these equally likely run times. `played`: of drawn lengths."""
        again = np.full(len(run_s), place)
        engine, offer, machines, replicas = (
            column[again] for column in (plans.engine, plans.offer, plans.machines, plans.replicas)
        )
        return self._priced(engine, offer, machines, replicas, run_s, played)

    def _priced(
        self, engine: Places, offer: Places, machines: Places, replicas: Places, run_s: Numbers, played: bool = False
    ) -> Plans:
        job, speeds, overheads = self.speeds.job, self.speeds, self.overheads
        draws = 0.0 if played else job.output_tokens.variation / job.requests**0.5
        slower, faster = deviations(speeds.low[engine], speeds.high[engine], draws)
        start_s = self._start_seconds[engine]
        spot = np.array([one.spot for one in self.offers])[offer]
        mean_run_s = run_s * mean_factor(slower, faster) * speeds.doubt[engine]
        per_s = np.where(spot, overheads.spot_loss_per_hour / HOUR_S, 0.0) * machines
        losses = per_s * (start_s + mean_run_s)
        # What ran on the lost machine is done over, on average half of it; the rest is in the journal.
        loss_s = (start_s + np.asarray(speeds.full.seconds)[engine] / 2) / machines
        finish_s = start_s + mean_run_s + losses * loss_s
        step = overheads.billed_step_s
        billed_s = np.ceil(np.maximum(finish_s, overheads.least_billed_s) / step) * step
        price = np.array([float(one.usd_per_hour) for one in self.offers])[offer]
        timing = Timing(start_s, run_s, slower, faster, losses, loss_s)
        share = (
            np.asarray(on_time(timing, self.wish.deadline_s))
            if np.isfinite(self.wish.deadline_s)
            else np.ones(len(engine))
        )
        usd = machines * price * billed_s / HOUR_S
        return Plans(engine, offer, machines, replicas, run_s, timing, finish_s, usd, share)

    def _run_seconds(self, engine: Places, replicas: Places) -> Numbers:
        """Plans that differ in their price alone run alike, and are computed once."""
        if not len(engine):
            return np.empty(0)
        most = int(replicas.max()) + 1
        which, back = np.unique(engine * most + replicas, return_inverse=True)
        run_s = np.empty(len(which))
        for start in range(0, len(which), AT_ONCE):
            part = which[start : start + AT_ONCE]
            speeds = self.speeds.at(part // most)
            run_s[start : start + AT_ONCE] = speeds.run_seconds(self.speeds.job.requests / (part % most))
        return run_s[back]

    def _ranks(self) -> Places:
        engines = self.speeds.engines
        return np.array([layout.split.ranks for layout in engines.layouts], np.int64)[engines.layout]

    def _gpus(self) -> Places:
        return np.array([offer.gpus for offer in self.offers], np.int64)

    @cached_property
    def _start_seconds(self) -> Numbers:
        """By engine. One machine reads the whole model once."""
        engines = self.speeds.engines
        each = [
            self.overheads.start_s(layout.memory(self.shape, 0, 0).weights * layout.split.ranks * GIB / 1e9)
            for layout in engines.layouts
        ]
        return np.array(each)[engines.layout]


def machine_counts(most: int) -> list[int]:
    """Every number up to 16, then ever wider apart: one more of many makes little difference."""
    counts = list(range(1, 17))
    while counts[-1] < most:
        counts.append(counts[-1] + max(2, counts[-1] // 8))
    return [count for count in counts if count < most] + [most]
