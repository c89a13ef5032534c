"""When a job will have ended, if nobody knows how long its answers will be: the same job played with many draws."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.simulation import simulate
from optimizer.planner.step_times import OverArrays, StepSeconds
from optimizer.planner.workload import Counts, Floats, KvBlocks, Requests
from serving.engine_config import Batching

Draw = Callable[[np.random.Generator], Counts]


@dataclass(frozen=True, slots=True)
class FinishDistribution:
    """Over the draws. It knows how uneven answers are, and nothing of how wrong the step times may be."""

    makespans_s: Floats  # ascending

    def quantile_s(self, share: float) -> float:
        return float(np.quantile(self.makespans_s, share))

    def share_by(self, deadline_s: float) -> float:
        """P(finish <= deadline), as the share of draws; of few draws it can say no more than one in so many."""
        return float(np.searchsorted(self.makespans_s, deadline_s, side="right")) / len(self.makespans_s)


def sampled_outputs(
    lengths: Counts, rows: int, generator: np.random.Generator, times_seen: NDArray[np.number] | None = None
) -> Counts:
    """Output tokens of so many requests, drawn with replacement from lengths that were seen, each once or as told."""
    if times_seen is None:
        drawn: Counts = generator.choice(lengths, rows)
    else:
        drawn = generator.choice(lengths, rows, p=times_seen / times_seen.sum())
    return drawn


def finish_distribution(
    requests: Requests,
    draw: Draw,
    batching: Batching,
    kv: KvBlocks,
    step_seconds: StepSeconds | OverArrays,
    *,
    draws: int = 16,
    seed: int = 0,
) -> FinishDistribution:
    """Plays the requests with the output tokens of each draw in place of their own, fed in the same order."""
    ended = [
        simulate(replace(requests, output_tokens=draw(generator)), batching, kv, step_seconds).makespan_s
        for generator in np.random.default_rng(seed).spawn(draws)
    ]
    return FinishDistribution(np.sort(ended))
