"""What sets a job apart from a run that was started before: another setting, input or model is another run."""

from collections.abc import Iterator, Mapping
from typing import Any

from flows.open import Work
from serving.store.finished import is_finished
from serving.store.run import Run, all_runs, find_run
from serving.store.sealed import Corrupt

MAX_SHOWN = 60


class Drift(ValueError):
    """A run was to be resumed with settings, input or models that are not its own."""


def refuse_drift(work: Work, name: str) -> None:
    """Raises Drift, naming each difference, unless the job is that of the run called `name`."""
    run = find_run(work.run.folder.parent, name)
    if run.run_id != work.run.run_id:
        raise Drift(
            f"E_DRIFT {run.run_id} cannot be resumed by this job, which differs in {_listed(run, work)}; undo that, or"
            f" leave --resume out, which makes it another run ({work.run.run_id})"
        )


def unfinished_likeness(work: Work) -> str | None:
    """For a run that is new: which unfinished run of the same input it is not, and why."""
    if work.run.exists:
        return None
    for run in all_runs(work.run.folder.parent):
        try:
            same_input = run.facts["job"]["dataset"]["path"] == work.job.dataset.path
        except Corrupt:
            continue
        if same_input and not is_finished(run):
            return (
                f"a new run; the unfinished {run.run_id} is not resumed, since this job differs in {_listed(run, work)}"
            )
    return None


def _listed(run: Run, work: Work) -> str:
    before, now = (dict(_flat(facts["fingerprint"])) for facts in (run.facts, work.facts))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} ({_shown(before.get(key))}, now {_shown(now.get(key))})" for key in changed)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{above}{key}.")
        else:
            yield f"{above}{key}", inner


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:12]}..."
