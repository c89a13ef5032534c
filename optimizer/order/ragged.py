"""Rows of different lengths, one after another in one array."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def counting(lengths: Numbers) -> Numbers:
    """0, 1, 2, ... anew for each length: 3, 1, 2 gives 0 1 2 0 0 1."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
