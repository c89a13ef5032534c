"""Whether near-duplicates pay: what they can save at the most, while they are being looked for, and what they are
expected to save once they are known. Nothing is said of an engine that this machine has not run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property

import numpy as np

from flows.forecast import FEW_DRAWS, Forecast, bases, forecast
from flows.members import Rows, pending_rows
from flows.open import Work
from optimizer.cost import usd_of_time
from serving.records import Interval, Lane


class DoesNotPay(Exception):
    """Looking for near-duplicates costs more than they could save; the message says both."""


@dataclass
class Embedding:
    """Watches how long texts take to be embedded. Once that is told to cost more than running every one of these rows
    would, there is nothing that near-duplicates could save."""

    work: Work
    rows: Rows
    _began_s: float = field(default_factory=lambda: time.monotonic())

    @cached_property
    def _most_usd(self) -> float | None:
        return most_saved_usd(self.work, self.rows)

    def heed(self, done: int, left: int) -> None:
        """After so many texts since it began. Raises DoesNotPay."""
        if self._most_usd is None or not left:
            return
        to_come = usd_of_time(self.work.price, (time.monotonic() - self._began_s) / done * left)
        if to_come > self._most_usd:
            raise DoesNotPay(
                f"near-duplicates are not looked for: embedding would cost ${to_come:.6f} more, and they could save"
                f" ${self._most_usd:.6f} at the very most"
            )


def most_saved_usd(work: Work, rows: Rows) -> float | None:
    """What running all of these in the full lane may cost, without its start-up; None where that is not known."""
    full = work.job.lanes["full"]
    if (known := bases(work, [full])) is None:
        return None
    basis = replace(known[0], start_up_s=0.0)
    return forecast(work, [(full, rows, basis)], Decimal(0), draws=FEW_DRAWS).usd.high_90


def near_saving(work: Work, lanes: Sequence[tuple[Lane, Rows]], whole: Forecast) -> Interval | None:
    """What near-duplicates are expected to save, embedding taken off, if the audits that are drawn bear them out: of
    what running the rows of their lane costs, the part that they are of these; None where there are none. `whole` is
    the forecast of these lanes, in which all of them run."""
    spent, cost = float(whole.spent_usd), float(work.run.stages_usd())
    starts_s = sum(told.start_up_s.value for told in whole.lanes) if work.price.bills_time else 0.0
    running = 1 - starts_s / whole.seconds.value if whole.seconds.value else 1.0
    of = sum(len(rows) for _, rows in lanes)
    fewer = sum(len(np.setdiff1d(rows, pending_rows(work, lane))) for lane, rows in lanes)
    if not fewer:
        return None
    value, low, high = (
        (usd - spent) * running * fewer / of - cost for usd in (whole.usd.value, whole.usd.low_90, whole.usd.high_90)
    )
    return Interval(value, low, high)


def saving_in_words(saved: Interval) -> str:
    told = f"${saved.value:.6f} of it ({saved.low_90:.6f} to {saved.high_90:.6f})".replace("$-", "-$")
    return f"near-duplicates save {told} beyond their embedding, if an audit bears them out"
