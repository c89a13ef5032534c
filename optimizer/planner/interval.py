"""How far off a prediction may be: split-conformal bounds by stratum (Lei et al. 2018; Vovk, Mondrian by group).

A bound is a quantile of the logarithm of measured over predicted over development rows that were left out of the fit
they were predicted by: a whole GPU for the stratum of unseen GPUs, a whole source for offline jobs, of which the
development rows of vLLM have none, and a whole cell of a GPU and a model for the others. Of mixtures of experts there
are six cells, two of them with four rows in five: each counts by the root of its rows, and bounds hold 95 % of them,
which is what keeps 90 % of the rows of each cell inside the bounds of the other five.
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

COVERAGE = 0.9
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
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Bounds:
    low: float  # factors of the prediction
    high: float


def stratum(*, vllm: bool, moe: bool, seen: bool, saturation: float, offline: bool = False) -> Stratum:
    if not vllm:
        return Stratum.OTHER_ENGINE
    if moe:
        return Stratum.MOE
    if offline:
        return Stratum.OFFLINE
    if saturation > SATURATED:
        return Stratum.SATURATED
    return Stratum.SEEN if seen else Stratum.UNSEEN


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


def bounds_of(stratum: Stratum) -> Bounds:
    known = _shipped()["bounds"]
    low, high = known.get(stratum.value) or known[Stratum.UNSEEN.value]
    return Bounds(low, high)


def seen_gpus() -> frozenset[str]:
    return frozenset(_shipped()["seen"]["gpus"])


@cache
def _shipped() -> Mapping[str, Any]:
    return tomllib.loads(files("optimizer.planner").joinpath("intervals.toml").read_text(encoding="utf-8"))
