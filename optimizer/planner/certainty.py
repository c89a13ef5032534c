"""How sure it is that a job is done by a deadline: how wrong the planner may be, times how long answers happen to be,
times how often spot machines are taken away.

The logarithm of a run's time over its prediction is normal, with one deviation above and another below, so that the
bounds of the prediction's stratum are its 5 % and 95 % points. Machines are taken away as Poisson's rare events are;
each time the job's other machines go on, and a new one starts over with what ran on the lost one.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Amount = float | Numbers

Z_90 = 1.6448536  # of the 5 % and 95 % points of a normal distribution
MOST_LOSSES = 40  # counted one by one; of jobs that expect more than half of it, the number is normal as well
PRECISION = 1e-5  # of a time


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of plans; all may be arrays over plans."""

    start_s: Amount  # until the first step
    run_s: Amount  # predicted
    slower: Amount  # deviations of the logarithm
    faster: Amount
    losses: Amount  # expected number of machines taken away
    loss_s: Amount  # by which each of them delays the job


def normal_share(z: Amount) -> Amount:
    """P(a standard normal is at most z), to 1e-7 (Abramowitz & Stegun 26.2.17)."""
    size = np.abs(z)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    above = series * np.exp(-0.5 * size * size) / 2.5066282746310002
    return np.where(np.asarray(z) >= 0, 1.0 - above, above)[()]


def deviations(low: Amount, high: Amount, draws: Amount) -> tuple[Amount, Amount]:
    """(slower, faster), of bounds of the speed and the relative deviation of the drawn work."""
    slower = np.sqrt((np.log(low) / Z_90) ** 2 + np.square(draws))
    faster = np.sqrt((np.log(high) / Z_90) ** 2 + np.square(draws))
    return slower, faster


def mean_factor(slower: Amount, faster: Amount) -> Amount:
    """Mean of the run's time over its prediction: of the exponential of a normal with two deviations."""
    up = np.exp(np.square(slower) / 2) * normal_share(slower)
    down = np.exp(np.square(faster) / 2) * normal_share(-np.asarray(faster))
    return np.asarray(up + down)[()]


def on_time(timing: Timing, deadline_s: Amount) -> Amount:
    """P(done by then)."""
    left = np.asarray(deadline_s) - timing.start_s
    share = np.asarray(_by(timing, left))
    losses = np.asarray(timing.losses, dtype=np.float64)
    if not losses.any():
        return share[()]
    columns = (timing.start_s, timing.run_s, timing.slower, timing.faster, losses, timing.loss_s)
    *plan, left, share = np.broadcast_arrays(*columns, left, share)
    share = share.copy()
    few = (plan[4] > 0) & (plan[4] <= MOST_LOSSES / 2)
    share[few] = _counted(Timing(*(column[few] for column in plan)), left[few])
    many = plan[4] > MOST_LOSSES / 2
    share[many] = _of_many(Timing(*(column[many] for column in plan)), left[many])
    return share[()]


def _counted(timing: Timing, left_s: Numbers) -> Numbers:
    """Every number of losses that is likely at all, by itself."""
    losses = np.asarray(timing.losses)
    weight, total = np.exp(-losses), np.zeros(losses.shape)
    mean = float(losses.max(initial=0.0))
    for lost in range(min(MOST_LOSSES, int(mean + 6 * mean**0.5 + 6)) + 1):
        total += weight * _by(timing, left_s - lost * np.asarray(timing.loss_s))
        weight = weight * losses / (lost + 1)
    return total


def _of_many(timing: Timing, left_s: Numbers) -> Numbers:
    spread = np.sqrt(timing.losses) * timing.loss_s / np.maximum(timing.run_s, 1e-9)
    wider = replace(timing, slower=np.hypot(timing.slower, spread), faster=np.hypot(timing.faster, spread))
    return np.asarray(_by(wider, left_s - np.asarray(timing.losses) * timing.loss_s))


def _by(timing: Timing, left_s: Amount) -> Amount:
    """P(the run takes no longer than this)."""
    ratio = np.log(np.maximum(left_s, 1e-300) / np.maximum(timing.run_s, 1e-300))
    z = ratio / np.maximum(np.where(ratio > 0, timing.slower, timing.faster), 1e-9)
    return np.where(np.asarray(left_s) > 0, normal_share(z), 0.0)[()]


def sure_s(timing: Timing, certainty: float) -> float:
    """By when a plan is done with this probability. Of a single plan, or of equally likely draws of one."""
    low, high = 0.0, float(np.max(np.asarray(timing.start_s) + timing.run_s))
    while np.mean(on_time(timing, high)) < certainty:
        low, high = high, 2 * high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if np.mean(on_time(timing, middle)) < certainty:
            low = middle
        else:
            high = middle
    return high


def about_sure_s(timing: Timing, certainty: float) -> Numbers:
    """The same of many plans at once, roughly: only to tell which are worth a closer look."""
    z = NormalDist().inv_cdf(certainty)
    run = np.asarray(timing.run_s) * np.exp(z * np.asarray(timing.slower if z > 0 else timing.faster))
    delay = np.asarray(timing.losses) + z * np.sqrt(timing.losses)
    return np.asarray(timing.start_s + run + np.maximum(delay, 0.0) * timing.loss_s)
