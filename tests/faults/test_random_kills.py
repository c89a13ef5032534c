"""Killed at random times, each start being the resume of the one before: nothing lost, nothing twice.

Without a failure in N kills, at most 3 / N of all fail, at 95 % confidence. GRISTMILL_KILLS=3000 is the long form.
"""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.crash import durable, long_form
from tests.faults.files import Committed
from tests.faults.jobs import Job, make_job, some_rows
from tests.faults.laws import broken, check_rest, expected_code, ill_mannered
from tests.faults.process import AT_A_TIME, Command, Ended, Forges, Launch, side_by_side
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS, ECHO_S = 40, 0.004
KILLS_AT_MOST = 30  # of one job


def test_random_kills_lose_nothing_double_nothing_and_bill_nothing_twice(forges: Forges, sweep: Sweep) -> None:
    kills = long_form("GRISTMILL_KILLS", 200)
    longest_s = forges.launch(make_job(sweep.folder / "whole", some_rows(ROWS), echo_s=ECHO_S).start()).wall_s

    def chain(place: int) -> None:
        moments = random.Random(place)
        while sweep.points < kills:
            job = make_job(sweep.folder / f"job-{place}-{sweep.points}", some_rows(ROWS), echo_s=ECHO_S)
            with forges.one() as launch:
                kill_until_done(job, launch, moments, sweep, longest_s)

    side_by_side(chain, range(AT_A_TIME))
    sweep.assert_lawful(least_points=kills)


def test_random_kills_of_the_real_command_are_as_harmless(command: Command, sweep: Sweep) -> None:
    """With the sizes that it is shipped with."""
    kills = long_form("GRISTMILL_REAL_KILLS", 8)
    longest_s = command(real_job(sweep.folder / "whole").start()).wall_s

    def chain(place: int) -> None:
        moments = random.Random(place)
        while sweep.points < kills:
            job = make_job(
                sweep.folder / f"job-{place}-{sweep.points}", some_rows(600), echo_s=ECHO_S / 2, shipped=True
            )
            kill_until_done(job, command, moments, sweep, longest_s)

    side_by_side(chain, range(AT_A_TIME))
    sweep.assert_lawful(least_points=kills)


def real_job(folder: Path) -> Job:
    return make_job(folder, some_rows(600), echo_s=ECHO_S / 2, shipped=True)


def kill_until_done(job: Job, launch: Launch, moments: random.Random, sweep: Sweep, longest_s: float) -> None:
    """Start a job and kill it, again and again, until it is done before its kill; then hold it to the laws."""
    before: list[Committed] = []
    for _ in range(KILLS_AT_MOST):
        ended = launch(job.start(signals=((signal.SIGKILL, moments.uniform(0.0, longest_s)),)))
        if not ended.killed:
            break
        before.append(durable(job))
        sweep.point(job.folder.name, fired=True)
    if ended.killed:
        ended = launch(job.start())
    sweep.judge(job.folder.name, lambda: judged(job, launch, ended, before))


def judged(job: Job, launch: Launch, ended: Ended, before: list[Committed]) -> list[str]:
    if ended.code != expected_code(job):
        return [*ill_mannered(ended), f"after {len(before)} kills it ended with {ended.code}: {ended.err[-300:]}"]
    # A kill may come between the double's spending and its count of it.
    return [*broken(job, before, crashes=len(before), slack_rows=len(before)), *check_rest(job, launch)]
