"""Crashes at a chosen call: how many calls a run makes, a kill before one of them, and the folder it leaves."""

import os
import shutil
from dataclasses import dataclass

from tests.faults.files import Committed, committed, only_run
from tests.faults.jobs import Job
from tests.faults.process import Ended, Launch
from tests.faults.shim import CHANGES, Armed, Call, Fault, Kind, arm


@dataclass(frozen=True, slots=True)
class Golden:
    """What an undisturbed process of a job did below its runs folder."""

    ended: Ended
    calls: list[Call]  # of the kinds that were asked for


def golden(job: Job, launch: Launch, kinds: Kind = CHANGES) -> Golden:
    ended, met = run_under(job, launch, Fault(kinds=kinds), log=True)
    return Golden(ended, [call for call in met.logged() if call.ordinal])


def run_under(job: Job, launch: Launch, fault: Fault, log: bool = False) -> tuple[Ended, Armed]:
    """One process of a job with a fault laid out for it."""
    met = arm(fault, job.runs, job.folder / "shim.control", log)
    return launch(job.start(control=met.file)), met


def crash(job: Job, launch: Launch, fault: Fault) -> tuple[bool, str]:
    """Kill a job before one of its calls; returns whether it was killed, and where.

    A run that is a few calls shorter than the golden one is killed a bit earlier.
    """
    for at in range(fault.at, max(0, fault.at - 12), -1):
        _forget(job)
        ended, met = run_under(job, launch, fault.before(at))
        if met.fired:
            assert ended.killed, f"the kill fired, but the process ended with {ended.code}: {ended.err[-300:]}"
            return True, met.where
    return False, ""


def durable(job: Job) -> Committed:
    """What counts right now."""
    run = only_run(job.runs) if job.runs.exists() else None
    return committed(run) if run else Committed({}, {})


def _forget(job: Job) -> None:
    """A job that never ran."""
    shutil.rmtree(job.runs, ignore_errors=True)
    job.audit.unlink(missing_ok=True)


def long_form(variable: str, short: int) -> int:
    """How many trials: few, unless the environment asks for more."""
    return int(os.environ.get(variable, short))
