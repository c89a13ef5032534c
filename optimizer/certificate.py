"""How many rows of a finite set can be wrong, from an audit of some of them: exact, and assuming nothing but the draw.

Rows are drawn without replacement by a seed that is recorded, so the number of wrong ones among them is hypergeometric
whatever the rows are; its inversion is the Clopper-Pearson bound of a finite population (e.g. Buonaccorsi 1987).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
FEW_AUDITED = 0.05  # of the rows: counting them changes the share by no more than that
ROUNDING = 1e-9  # of a probability that is as large as delta: it counts as larger, so that the bound errs upwards


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of `rows` that were to be answered without being run, what an audit of some of them tells of all.

    Where `certified`, at most `most_wrong` of them are wrong with confidence 1 - `delta`, and of these the audit has
    mended the `wrong` that it found: at most the share `max_wrong` of those that are counted is served a wrong answer.
    """

    rows: int
    audited: int
    wrong: int  # of the audited
    max_wrong: float
    delta: float

    @property
    def most_wrong(self) -> int:
        return most_wrong(self.rows, self.audited, self.wrong, self.delta)

    @property
    def counted(self) -> int:
        """The rows of which a share is promised: all, while the audited ones are few among them, else the others."""
        return self.rows if self.audited <= FEW_AUDITED * self.rows else self.rows - self.audited

    @property
    def certified(self) -> bool:
        return self.most_wrong - self.wrong <= self.max_wrong * self.counted


def most_wrong(rows: int, audited: int, found: int, delta: float) -> int:
    """The most rows that can be wrong if chance is to hide them from the audit with a probability above `delta`: the
    largest K with P[Hypergeometric(rows, K, audited) <= found] > delta. The probability falls as K grows."""
    least, most = found, rows - (audited - found)  # what was seen bounds it from both sides
    while least < most:
        middle = (least + most + 1) // 2
        if _at_most(found, rows, middle, audited) > delta * (1 - ROUNDING):
            least = middle
        else:
            most = middle - 1
    return least


@lru_cache(maxsize=4096)  # choices are weighed many times over the same numbers of rows
def audits_needed(rows: int, max_wrong: float, delta: float, found: int = 0) -> int:
    """The fewest audits that certify `rows` if `found` of them are wrong. All of them, where no fewer can."""
    for allowed in range(int(max_wrong * rows), -1, -1):  # the more may be wrong, the fewer audits rule one more out
        audits = _audits_to_rule_out(allowed + found + 1, rows, found, delta)
        if Certificate(rows, audits, found, max_wrong, delta).certified:
            return audits
    return rows


def _audits_to_rule_out(wrong: int, rows: int, found: int, delta: float) -> int:
    least, most = min(found, rows), rows
    while least < most:
        middle = (least + most) // 2
        if _at_most(found, rows, min(wrong, rows), middle) > delta * (1 - ROUNDING):
            least = middle + 1
        else:
            most = middle
    return least


def drawn(rows: Rows, audits: int, seed: int) -> Rows:
    """So many of the rows, without replacement, in the order of the draw; any prefix of it is a draw as well."""
    chosen: Rows = np.random.Generator(np.random.PCG64(seed)).permutation(np.sort(rows))[:audits]
    return chosen


def _at_most(found: int, rows: int, wrong: int, audited: int) -> float:
    """P[Hypergeometric(rows, wrong, audited) <= found]."""
    least = max(0, audited - (rows - wrong))
    terms = [
        log_choose(wrong, count) + log_choose(rows - wrong, audited - count)
        for count in range(least, min(found, wrong) + 1)
    ]
    return math.fsum(math.exp(term - log_choose(rows, audited)) for term in terms)


def log_choose(of: int, chosen: int) -> float:
    """The logarithm of the ways to choose so many of so many."""
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
