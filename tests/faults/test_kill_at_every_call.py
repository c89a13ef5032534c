"""Killed before each of the calls that change a file; and killed once more while it recovers."""

import random
import shutil
from pathlib import Path

import pytest

from tests.faults.crash import crash, durable, golden, long_form, run_under
from tests.faults.jobs import Job, make_job, some_rows
from tests.faults.laws import end_and_check, expected_code
from tests.faults.process import Command, Forges, Launch, side_by_side
from tests.faults.shim import CHANGES, EVERY, Fault
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS = 36
RERUN_EVERY = 4


def four_segments(folder: Path) -> Job:
    """Both lanes, duplicates, a refused row, two that fail."""
    return make_job(folder, some_rows(ROWS), two_lanes=True)


def test_a_kill_before_every_call_loses_nothing_doubles_nothing_and_bills_nothing_twice(
    forges: Forges, sweep: Sweep
) -> None:
    undisturbed = four_segments(sweep.folder / "golden")
    whole = golden(undisturbed, forges.launch)
    assert whole.ended.code == expected_code(undisturbed), whole.ended.err
    sealed = list(undisturbed.runs.glob("*/segments/*.parquet"))
    assert len(sealed) >= 4, "the run has four segments"

    def point(at: int) -> None:
        sweep.trial(f"kill-{at}", lambda folder: killed_and_resumed(four_segments(folder), at))

    def killed_and_resumed(job: Job, at: int) -> tuple[bool, list[str]]:
        with forges.one() as launch:
            fired, where = crash(job, launch, Fault(at, kinds=CHANGES))
            broken = end_and_check(job, launch, [durable(job)], crashes=1, rerun=at % RERUN_EVERY == 0)
        return fired, [f"before {where}: {line}" for line in broken]

    side_by_side(point, range(1, len(whole.calls) + 1))
    sweep.assert_lawful(least_points=len(whole.calls))


def test_a_kill_at_any_call_of_the_real_command_is_as_harmless(command: Command, sweep: Sweep) -> None:
    """The fork server is no blind spot: the same with the command as it is installed, at a sample of its calls."""

    def job(folder: Path) -> Job:
        return make_job(folder, some_rows(700), two_lanes=True, shipped=True)

    whole = golden(job(sweep.folder / "golden"), command, EVERY)
    assert whole.ended.code == 1, whole.ended.err

    def point(at: int) -> None:
        sweep.trial(f"kill-{at}", lambda folder: killed_and_resumed(job(folder), at))

    def killed_and_resumed(job: Job, at: int) -> tuple[bool, list[str]]:
        fired, where = crash(job, command, Fault(at))
        broken = end_and_check(job, command, [durable(job)], crashes=1)
        return fired, [f"before {where}: {line}" for line in broken]

    sample = random.Random(2).sample(range(1, len(whole.calls) + 1), long_form("GRISTMILL_REAL_KILLS", 8))
    side_by_side(point, sample)
    sweep.assert_lawful(least_points=len(sample))


def test_a_second_kill_during_the_recovery_of_the_first_is_as_harmless(forges: Forges, sweep: Sweep) -> None:
    whole = golden(four_segments(sweep.folder / "golden"), forges.launch)
    pairs = long_form("GRISTMILL_DOUBLE_KILLS", 100)
    seconds_each = 5
    # Of a run that is finished there is nothing to recover.
    finished = next(call.ordinal for call in whole.calls if call.name == "rename" and "finished.json" in call.path)
    firsts = random.Random(3).choices(range(2, finished), k=pairs // seconds_each)

    def first(numbered: tuple[int, int]) -> None:
        number, at = numbered
        crashed = four_segments(sweep.folder / f"crashed-{number}")
        with forges.one() as launch:
            fired, _ = crash(crashed, launch, Fault(at, kinds=CHANGES))
            assert fired
            recovery = copy(crashed, f"counted-{number}")
            _, met = run_under(recovery, launch, Fault(kinds=CHANGES))
            moments = random.Random(at)
            for second in range(seconds_each):
                # Half of them among the first calls, which are the recovery itself.
                last = met.calls if second % 2 else min(met.calls, 24)
                name, then = f"kill-{number}-{at}-{second}", moments.randint(1, last)
                sweep.trial(name, lambda folder, then=then: twice(copy(crashed, folder.name), launch, then))

    def twice(job: Job, launch: Launch, at: int) -> tuple[bool, list[str]]:
        before = durable(job)
        ended, met = run_under(job, launch, Fault(at, kinds=CHANGES))
        broken = end_and_check(job, launch, [before, durable(job)], crashes=2, rerun=at % RERUN_EVERY == 0)
        return met.fired and ended.killed, [f"second kill before {met.where}: {line}" for line in broken]

    def copy(job: Job, name: str) -> Job:
        shutil.copytree(job.folder, sweep.folder / name)
        return Job(sweep.folder / name, job.rows)

    side_by_side(first, enumerate(firsts))
    sweep.assert_lawful(least_points=len(firsts) * seconds_each)
