"""`gristmill status`: where a run stands, read from its folder alone, so that it is right at once after a kill."""

import time
from collections.abc import Callable

from flows.progress import in_words, noted_in
from serving.store.finished import is_finished
from serving.store.parts import read_manifest
from serving.store.run import Run
from serving.store.segments import durable_outcomes


def status_of(run: Run) -> str:
    admitted = read_manifest(run.admitted)
    lines = [f"{run.run_id}: {_state(run)}"]
    if admitted is None:
        return "\n".join([*lines, "  rows are still being admitted"])
    requests, refused = admitted.rows("requests"), admitted.rows("refusals")
    outcomes = durable_outcomes(run.segments)
    settled = sum(outcomes.values())
    counts = [f"{outcomes[name]} {name}" for name in ("answered", "failed")]
    lines.append(
        f"  rows in {requests + refused} = {' + '.join(counts)} + {refused} refused + {requests - settled} open"
    )
    if run.is_held() and (told := noted_in(run.live)) is not None:
        lines.append(f"  {in_words(told)}, {max(0.0, time.time() - told.unix_s):.0f} s ago")
    return "\n".join(lines)


def watch(run: Run, show: Callable[[str], None], every_s: float = 1.0) -> None:
    """Show it again and again, until nobody works on the run any more."""
    while True:
        going_on = run.is_held()
        show(status_of(run))
        if not going_on:
            return
        time.sleep(every_s)


def _state(run: Run) -> str:
    if run.is_held():
        return "running"
    if is_finished(run):
        return "finished"
    return "stopped; run its job again to resume it"
