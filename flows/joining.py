"""Whether the engine that runs should answer the next lanes' rows too, instead of one being started for them.

Where the job leaves it open, a lane pays for its engine's start before it saves anything. With route.to_quantized =
"auto" it is dropped where even the least likely outcomes agree: what its rows take on the running engine, at the 95 %
point of that forecast, is less than what they take on one of their own, start included, at the 5 % point. With
"certified", where its audits and what they may find come on top, the likeliest outcome decides. The full model runs
first, so that what it takes over is answered no worse.

Of an engine that has not run on this machine nothing is forecast. Yet it has to start, and the one that runs has shown
what a row takes: where that times all of their rows is less than half of its own start, no other engine can be worth
one.

What else a pilot could change, it cannot tell apart. How much runs at once is not: a full batch has steps of one size,
from which what a step costs by itself and what each sequence adds cannot be separated.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from flows.forecast import Basis, forecast
from flows.members import Rows
from flows.open import Work
from serving.records import Lane

UNKNOWN_START = 0.5  # of how long the engine that runs took to start: another, never seen here, takes no less


def worth_joining(work: Work, lanes: Sequence[tuple[Lane, Rows, Basis]]) -> bool:
    """The first of the lanes is the one whose engine runs; says so where it is to answer for the others."""
    (running, _, basis), *others = lanes
    if not others or not _is_open(work):
        return False
    ready = replace(basis, start_up_s=0.0)
    here = forecast(work, [(running, rows, ready) for _, rows, _ in others], Decimal(0)).seconds
    apart = forecast(work, others, Decimal(0)).seconds
    certified = work.job.route.to_quantized == "certified"
    if here.value >= apart.value if certified else here.high_90 >= apart.low_90:
        return False
    work.progress.say(
        f"{running.name}: answers for {', '.join(lane.name for lane, _, _ in others)} as well, in {here.value:.0f} s"
        f" ({here.low_90:.0f} to {here.high_90:.0f}); another engine would take {apart.value:.0f}"
        f" ({apart.low_90:.0f} to {apart.high_90:.0f})"
    )
    return True


def worth_no_start(
    work: Work, running: Lane, s_per_row: float, start_up_s: float, others: Sequence[tuple[Lane, Rows]]
) -> bool:
    """The same of lanes that nothing is known of, once the engine that runs has none of its own rows left. It took
    `start_up_s` to start, and then `s_per_row`."""
    here_s, least_s = s_per_row * sum(len(rows) for _, rows in others), UNKNOWN_START * start_up_s
    if not others or not _is_open(work) or here_s >= least_s:
        return False
    work.progress.say(
        f"{running.name}: answers for {', '.join(lane.name for lane, _ in others)} as well, in some {here_s:.1f} s; to"
        f" start another engine would take {least_s:.0f} at the least"
    )
    return True


def _is_open(work: Work) -> bool:
    return work.job.route.to_quantized in ("auto", "certified") and work.price.bills_time
