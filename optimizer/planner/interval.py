"""How far off a prediction may be: split-conformal bounds by stratum (Lei et al. 2018; Vovk, Mondrian by group).

A bound is a quantile of the logarithm of measured over predicted over development rows that were left out of the fit
they were predicted by: all GPUs of an architecture for the stratum of unseen GPUs, a whole source for offline jobs, of
which the development rows of vLLM have none, and a whole cell of a GPU and a model for the others. Of mixtures of
experts there are six cells, two of them with four rows in five: each counts by the root of its rows, and bounds hold
95 % of them, which is what keeps 90 % of the rows of each cell inside the bounds of the other five.

That nobody has measured a GPU is a cause of misses beside those that a stratum has anyway, and so adds to its variance:
as much as rows needed whose architecture was left out beyond those of which only a cell was. Leaving out a single GPU
would tell too little: its siblings (H200 and GH200 of H100) would still be there, and a card such as A40 has none.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any

from optimizer.planner.certainty import Z_90, deviations, mean_factor

COVERAGE = 0.9  # that every interval of ours stands for
FEW_CELLS_COVERAGE = 0.95  # of the rows that bounds for a new cell are drawn from, where cells are few
SATURATED = 1.0  # sequences offered over those that the cache holds, above which preemption and queues set the pace
FEWEST = 20  # left-out rows that a stratum's own bounds can be drawn from


class Stratum(StrEnum):
    SEEN = "seen GPU"
    UNSEEN = "unseen GPU"
    MOE = "mixture of experts"
    SATURATED = "cache saturated"
    OFFLINE = "offline job"
    OTHER_ENGINE = "other engine"
    MOE_UNSEEN = "mixture of experts, unseen GPU"
    SATURATED_UNSEEN = "cache saturated, unseen GPU"
    OFFLINE_UNSEEN = "offline job, unseen GPU"
    OTHER_ENGINE_UNSEEN = "other engine, unseen GPU"
    MEMORY = "memory"


# What an unseen GPU's stratum is on one that was measured.
MEASURED = {
    Stratum.UNSEEN: Stratum.SEEN,
    Stratum.MOE_UNSEEN: Stratum.MOE,
    Stratum.SATURATED_UNSEEN: Stratum.SATURATED,
    Stratum.OFFLINE_UNSEEN: Stratum.OFFLINE,
    Stratum.OTHER_ENGINE_UNSEEN: Stratum.OTHER_ENGINE,
}
UNMEASURED = {measured: unseen for unseen, measured in MEASURED.items()}


@dataclass(frozen=True, slots=True)
class Bounds:
    low: float  # factors of the prediction
    high: float


def stratum(*, vllm: bool, moe: bool, seen: bool, saturation: float, offline: bool = False) -> Stratum:
    if not vllm:
        kind = Stratum.OTHER_ENGINE
    elif moe:
        kind = Stratum.MOE
    elif offline:
        kind = Stratum.OFFLINE
    elif saturation > SATURATED:
        kind = Stratum.SATURATED
    else:
        kind = Stratum.SEEN
    return kind if seen else UNMEASURED[kind]


def conformal(logs: Sequence[float], coverage: float = COVERAGE) -> Bounds:
    """Of left-out logarithms of measured over predicted: the order statistics that cover a new one this often."""
    ordered, count = sorted(logs), len(logs)
    tail = (1 - coverage) / 2
    low = max(math.floor((count + 1) * tail), 1)
    return Bounds(math.exp(ordered[low - 1]), math.exp(ordered[count - low]))


def conformal_of_cells(logs: Sequence[float], cells: Sequence[str], coverage: float = FEW_CELLS_COVERAGE) -> Bounds:
    """The same where rows of a cell are alike, so that each cell counts by the root of its rows."""
    rows = Counter(cells)
    ordered = sorted(zip(logs, (rows[cell] ** -0.5 for cell in cells), strict=True))
    tail = (1 - coverage) / 2 * sum(weight for _, weight in ordered)
    return Bounds(math.exp(_first_past(tail, ordered)), math.exp(_first_past(tail, ordered[::-1])))


def _first_past(tail: float, weighed: Sequence[tuple[float, float]]) -> float:
    passed = accumulate(weight for _, weight in weighed)
    return next(log for (log, _), weight in zip(weighed, passed, strict=True) if weight >= tail)


@cache
def bounds_of(stratum: Stratum) -> Bounds:
    if stratum in MEASURED and stratum is not Stratum.UNSEEN:
        return _where_unmeasured(bounds_of(MEASURED[stratum]))
    known = _shipped()["bounds"]
    low, high = known.get(stratum.value) or known[Stratum.UNSEEN.value]
    return Bounds(low, high)


def _where_unmeasured(bounds: Bounds) -> Bounds:
    """Independent causes: their variances add, each side by itself."""
    seen, unseen = bounds_of(Stratum.SEEN), bounds_of(Stratum.UNSEEN)
    low = math.log(bounds.low) ** 2 + max(math.log(unseen.low) ** 2 - math.log(seen.low) ** 2, 0.0)
    high = math.log(bounds.high) ** 2 + max(math.log(unseen.high) ** 2 - math.log(seen.high) ** 2, 0.0)
    return Bounds(math.exp(-math.sqrt(low)), math.exp(math.sqrt(high)))


@cache
def doubt(stratum: Stratum) -> float:
    """By how much a run is expected to take longer than its bounds alone tell, for nobody having measured its GPU.

    A new source of error that is as likely to help as to hurt makes the mean of a run's time longer, by the exponential
    of half its variance. Bounds that grew more on the fast side would tell the opposite: that a card gains by not
    having been measured.
    """
    if (measured := MEASURED.get(stratum)) is None:
        return 1.0
    seen, unseen = bounds_of(Stratum.SEEN), bounds_of(Stratum.UNSEEN)
    excess = max(math.log(getattr(unseen, side)) ** 2 - math.log(getattr(seen, side)) ** 2 for side in ("low", "high"))
    known, own = (mean_factor(*deviations(one.low, one.high, 0.0)) for one in map(bounds_of, (measured, stratum)))
    return max(1.0, float(known * math.exp(max(excess, 0.0) / Z_90**2 / 2) / own))


def seen_gpus() -> frozenset[str]:
    return frozenset(_shipped()["seen"]["gpus"])


@cache
def _shipped() -> Mapping[str, Any]:
    return tomllib.loads(files("optimizer.planner").joinpath("intervals.toml").read_text(encoding="utf-8"))
