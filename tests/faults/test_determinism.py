"""With a price by tokens and a date that is given, a crash leaves no trace in the answers: the same bytes."""

import random
from pathlib import Path

import pytest

from tests.faults.crash import crash, golden, long_form
from tests.faults.files import only_run
from tests.faults.jobs import BY_TOKENS, Job, make_job, some_rows
from tests.faults.laws import expected_code
from tests.faults.process import Forges, side_by_side
from tests.faults.shim import CHANGES, Fault
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

POINTS = long_form("GRISTMILL_DETERMINISM", 12)
FIXED = {"SOURCE_DATE_EPOCH": "1700000000"}


def test_a_crashed_and_resumed_run_gives_the_bytes_of_an_uninterrupted_one(forges: Forges, sweep: Sweep) -> None:
    def job(folder: Path) -> Job:
        return make_job(folder, some_rows(30), BY_TOKENS, two_lanes=True, variables=FIXED)

    undisturbed = job(sweep.folder / "golden")
    whole = golden(undisturbed, forges.launch)
    assert whole.ended.code == expected_code(undisturbed), whole.ended.err
    expected = answers(undisturbed)

    def point(at: int) -> None:
        sweep.trial(f"kill-{at}", lambda folder: killed_and_resumed(job(folder), at))

    def killed_and_resumed(job: Job, at: int) -> tuple[bool, list[str]]:
        with forges.one() as launch:
            fired, where = crash(job, launch, Fault(at, kinds=CHANGES))
            ended = launch(job.start())
        if ended.code != expected_code(job):
            return fired, [f"before {where}: resume ended with {ended.code}: {ended.err.strip()[-300:]}"]
        return fired, [] if answers(job) == expected else [f"before {where}: other bytes"]

    side_by_side(point, random.Random(20).sample(range(1, len(whole.calls) + 1), POINTS))
    sweep.assert_lawful(least_points=POINTS)


def answers(job: Job) -> list[bytes]:
    run = only_run(job.runs)
    assert run is not None
    return sorted((run / "export" / "results.jsonl").read_bytes().splitlines())
