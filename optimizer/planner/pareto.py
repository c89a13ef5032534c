"""Which of many things are the best for some taste: nothing else is at least as good in both ways and better in one."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]


def front(costs: Numbers, times: Numbers) -> Places:
    """Places of those that nothing dominates, cheapest first. Of equals the first one stays."""
    order = np.lexsort((times, costs))
    sooner = np.minimum.accumulate(times[order])
    kept = np.r_[True, times[order][1:] < sooner[:-1]] if len(order) else np.empty(0, bool)
    best: Places = order[kept]
    return best


def thinned(places: Places, most: int) -> Places:
    """At most so many of a front, evenly over it, both ends kept."""
    if len(places) <= most:
        return places
    kept: Places = places[np.unique(np.linspace(0, len(places) - 1, most).round().astype(np.int64))]
    return kept
