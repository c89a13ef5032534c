"""Runs in a bucket, killed at random times, here and on machines that have no copy: nothing lost, nothing twice."""

import random
import signal

import pytest

from tests.faults.bucket_jobs import (
    ON_ANOTHER_MACHINE,
    BucketJob,
    differs_from_its_bucket,
    durable_in_bucket,
    in_bucket,
    lose_copy,
    use,
)
from tests.faults.crash import long_form
from tests.faults.files import Committed
from tests.faults.jobs import RUN, make_job, some_rows
from tests.faults.laws import broken, check_rest, expected_code, ill_mannered
from tests.faults.process import AT_A_TIME, Ended, Forges, Launch, side_by_side
from tests.faults.sweep import Sweep
from tests.object_store import ObjectStore

pytestmark = pytest.mark.faults

ROWS, ECHO_S = 40, 0.004
KILLS_AT_MOST = 20  # of one job


def test_random_kills_of_runs_in_a_bucket_lose_nothing_and_double_nothing(
    forges: Forges, sweep: Sweep, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(objects.environment, monkeypatch)
    kills = long_form("GRISTMILL_BUCKET_KILLS", 100)

    def job(name: str) -> BucketJob:
        made = make_job(sweep.folder / name, some_rows(ROWS), echo_s=ECHO_S)
        return in_bucket(made, objects.port, objects.environment)

    longest_s = forges.launch(job("whole").start()).wall_s

    def chain(place: int) -> None:
        draw = random.Random(place)
        while sweep.points < kills:
            with forges.one() as launch:
                kill_until_done(job(f"job-{place}-{sweep.points}"), launch, draw, sweep, longest_s, objects)

    side_by_side(chain, range(AT_A_TIME))
    sweep.assert_lawful(least_points=kills)


def kill_until_done(
    job: BucketJob, launch: Launch, draw: random.Random, sweep: Sweep, longest_s: float, store: ObjectStore
) -> None:
    before: list[Committed] = []
    lost_meters, command = 0, RUN
    for _ in range(KILLS_AT_MOST):
        ended = launch(job.start(command, signals=((signal.SIGKILL, draw.uniform(0.0, longest_s)),)))
        if not ended.killed:
            break
        before.append(durable_in_bucket(job, job.folder / "look"))
        sweep.point(job.folder.name, fired=True)
        if draw.random() < 0.5:
            lose_copy(job)
            lost_meters, command = lost_meters + 1, ON_ANOTHER_MACHINE
    if ended.killed:
        ended = launch(job.start(command))
    sweep.judge(job.folder.name, lambda: judged(job, launch, ended, before, lost_meters, store))


def judged(
    job: BucketJob, launch: Launch, ended: Ended, before: list[Committed], lost_meters: int, store: ObjectStore
) -> list[str]:
    if ended.code != expected_code(job):
        return [*ill_mannered(ended), f"after {len(before)} kills it ended with {ended.code}: {ended.err[-300:]}"]
    # What was spent and lost on a machine whose disk is lost as well is known to the last sign of life.
    slack_rows = len(before) + lost_meters * (job.window_rows + 1)
    return [
        *broken(job, before, crashes=len(before), slack_rows=slack_rows),
        *check_rest(job, launch),
        *differs_from_its_bucket(job, store),
    ]
