"""How long the runs of a schedule take, by a step-time function that is called a few times a run."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizer.planner.schedule import Schedule
from optimizer.planner.workload import Counts, Floats

PIECE_STEPS = 64  # longer runs are cut: a kink in the function spoils no more than one piece

# Seconds of one step, from what it computes:
#   prefill_tokens          tokens of prompts, and of answers that are computed again
#   prefill_context_tokens  summed over these tokens, how many each looks at, itself included: a chunk of c tokens
#                           behind x that are in the cache adds c*x + c*(c+1)/2
#   decode_sequences        sequences that get one token each
#   decode_context_tokens   summed over these, how many tokens each looks at, its newest included
# The last may be no whole number, as it is asked for the middle of an even number of steps.
StepSeconds = Callable[[float, float, float, float], float]


@dataclass(frozen=True, slots=True)
class OverArrays:
    """The same over arrays, element by element: one call where a function of numbers is called for every run."""

    step_seconds: Callable[[Floats, Floats, Floats, Floats], Floats]

    def __call__(self, *columns: Floats) -> Floats:
        return self.step_seconds(*columns)


def _over_arrays(step_seconds: StepSeconds | OverArrays) -> OverArrays:
    if isinstance(step_seconds, OverArrays):
        return step_seconds
    return OverArrays(lambda *columns: np.array(list(map(step_seconds, *(each.tolist() for each in columns)))))


def run_seconds(schedule: Schedule, step_seconds: StepSeconds | OverArrays) -> Floats:
    """Exact up to rounding where the step time is a polynomial of the context up to the third degree, and for runs of
    up to three steps: Simpson's rule for sums."""
    seconds_of = _over_arrays(step_seconds)
    run, steps, before = _pieces(schedule.steps)
    context = schedule.decode_context_tokens[run] + before * schedule.decode_sequences[run]
    grown = (steps - 1) * schedule.decode_sequences[run]

    def at(places: Counts, share: float) -> Floats:
        runs = run[places]
        columns = (schedule.prefill_tokens, schedule.prefill_context_tokens, schedule.decode_sequences)
        prefill, prefill_context, sequences = (column[runs].astype(np.float64) for column in columns)
        return seconds_of(prefill, prefill_context, sequences, context[places] + share * grown[places])

    seconds = at(np.arange(len(run)), 0.0)
    several = np.flatnonzero(steps > 1)
    if len(several):
        first, middle, last = seconds[several], at(several, 0.5), at(several, 1.0)
        count = steps[several]
        # By the middle, and by how far the ends are off it: f0 + fn - 2 fm is n^2/2 times the square term, and the
        # squared distances from the middle add up to k (k^2 - 1) / 12, with k = n + 1 steps.
        bent = first + last - 2 * middle
        seconds[several] = count * middle + bent * count * (count + 1) / (6 * (count - 1))
    by_run: Floats = np.bincount(run, seconds, len(schedule.steps)).astype(np.float64)
    return by_run


def _pieces(steps: Counts) -> tuple[Counts, Counts, Counts]:
    """Of each piece its run, its steps, and the steps of its run before it."""
    pieces = -(-steps // PIECE_STEPS)
    run = np.repeat(np.arange(len(steps)), pieces)
    before = PIECE_STEPS * (np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    return run, np.minimum(steps[run] - before, PIECE_STEPS), before
