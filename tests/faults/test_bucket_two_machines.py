"""Two machines at one run in a bucket: one works, the other says who does, or takes it over."""

import threading
import time

import pytest

from tests.faults.bucket_jobs import (
    ON_ANOTHER_MACHINE,
    BucketJob,
    differs_from_its_bucket,
    in_bucket,
    on_another_machine,
    use,
)
from tests.faults.jobs import RUN, STATUS, make_job, some_rows
from tests.faults.laws import broken, check_rest, expected_code
from tests.faults.process import Ended, Forges, Launch
from tests.faults.sweep import Sweep
from tests.object_store import ObjectStore

pytestmark = pytest.mark.faults

ROWS, ECHO_S = 40, 0.1
HELD, SUPERSEDED = 2, 6


@pytest.fixture
def job(sweep: Sweep, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> BucketJob:
    use(objects.environment, monkeypatch)
    made = make_job(sweep.folder / "here", some_rows(ROWS), echo_s=ECHO_S)
    return in_bucket(made, objects.port, objects.environment)


def test_a_run_that_another_machine_writes_is_left_to_it(forges: Forges, job: BucketJob, objects: ObjectStore) -> None:
    there = on_another_machine(job)
    here, other, told = beside(job, forges.launch, there, [RUN], [STATUS])
    assert here.code == expected_code(job), here.err
    assert other.code == HELD
    assert "is being written by process" in other.err
    assert "60 s after its last sign of life the run is free again" in other.err
    assert "running" in told.out
    assert not [*broken(job, [], 0), *check_rest(job, forges.launch), *differs_from_its_bucket(job, objects)]


def test_a_run_that_another_machine_takes_over_is_settled_once(
    forges: Forges, job: BucketJob, objects: ObjectStore
) -> None:
    there = on_another_machine(job)
    here, other = beside(job, forges.launch, there, [ON_ANOTHER_MACHINE])
    assert here.code == SUPERSEDED, here.err
    assert "was taken over by process" in here.err
    assert other.code == expected_code(job), other.err
    slack_rows = there.window_rows + 1  # the meter is with the machine that had it
    violations = [*broken(there, [], 1, slack_rows), *check_rest(there, forges.launch)]
    assert not [*violations, *differs_from_its_bucket(there, objects)]


def beside(job: BucketJob, launch: Launch, there: BucketJob, *commands: list[list[str]]) -> list[Ended]:
    """Run the job, and when its engine has answered some rows, the commands on the other machine."""
    ended: list[Ended] = []
    first = threading.Thread(target=lambda: ended.append(launch(job.start())))
    first.start()
    while first.is_alive() and not list(job.runs.glob("*/segments/*-full-*")):
        time.sleep(0.02)
    others = [launch(there.start(*calls)) for calls in commands]
    first.join()
    return [*ended, *others]
