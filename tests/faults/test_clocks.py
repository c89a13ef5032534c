"""The clock of the day jumps by a year, ahead and back, between one look at it and the next, and the run is killed."""

import random
from pathlib import Path

import pytest

from tests.faults.crash import crash, durable, golden, long_form
from tests.faults.files import books, only_run
from tests.faults.jobs import Job, make_job, some_rows
from tests.faults.laws import end_and_check, expected_code
from tests.faults.process import Forges, side_by_side
from tests.faults.shim import CHANGES, Fault
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

POINTS = long_form("GRISTMILL_CLOCKS", 12)
LONGEST_TRIAL_S = 60.0


def test_a_jumping_clock_bills_no_second_that_was_not_run_and_mixes_up_nothing(forges: Forges, sweep: Sweep) -> None:
    def job(folder: Path, seed: int) -> Job:
        return make_job(folder, some_rows(30), echo_s=0.002).with_clock(seed)

    undisturbed = job(sweep.folder / "golden", 0)
    whole = golden(undisturbed, forges.launch)
    assert whole.ended.code == expected_code(undisturbed), whole.ended.err

    def point(at: int) -> None:
        sweep.trial(f"kill-{at}", lambda folder: killed_and_resumed(job(folder, at), at))

    def killed_and_resumed(job: Job, at: int) -> tuple[bool, list[str]]:
        with forges.one() as launch:
            fired, where = crash(job, launch, Fault(at, kinds=CHANGES))
            violations = end_and_check(job, launch, [durable(job)], crashes=1)
        run = only_run(job.runs)
        assert run is not None
        seconds = sum(line["seconds"] for line in books(run).overheads)
        if seconds > LONGEST_TRIAL_S:
            violations.append(f"P4: {seconds:.0f} s beside the rows, of a trial that took less")
        return fired, [f"before {where}: {line}" for line in violations]

    side_by_side(point, random.Random(18).sample(range(1, len(whole.calls) + 1), POINTS))
    sweep.assert_lawful(least_points=POINTS)
