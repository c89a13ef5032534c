"""`gristmill status`: where a run stands, read from its folder alone, so that it is right at once after a kill."""

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
    return "\n".join(lines)


def _state(run: Run) -> str:
    if run.is_held():
        return "running"
    if is_finished(run):
        return "finished"
    return "stopped; run its job again to resume it"
