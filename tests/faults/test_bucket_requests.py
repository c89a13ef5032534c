"""Requests of a run in a bucket go wrong, one at a time, in every way that a request can: the run's laws hold.

GRISTMILL_EVERY_NTH_REQUEST=1 strikes each of them.
"""

from pathlib import Path

import pytest

from tests.faults.bucket_jobs import BucketJob, differs_from_its_bucket, durable_in_bucket, in_bucket, use
from tests.faults.crash import long_form
from tests.faults.jobs import make_job, some_rows
from tests.faults.laws import broken, check_rest, expected_code, ill_mannered
from tests.faults.process import Forges, Launch, side_by_side
from tests.faults.store_proxy import Fault, What, proxied
from tests.faults.sweep import Sweep
from tests.object_store import ObjectStore

pytestmark = pytest.mark.faults

ROWS = 24
EVERY_NTH = long_form("GRISTMILL_EVERY_NTH_REQUEST", 3)
DISK_FAILED = 5
ONLY_WHERE_CHANGED = {What.UNANSWERED, What.KILLED_AFTER}  # a read that is not answered is a read that was lost


def test_no_request_that_goes_wrong_loses_or_doubles_a_row(
    forges: Forges, sweep: Sweep, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(objects.environment, monkeypatch)
    changes, reads = requests_of_a_whole_run(forges.launch, sweep.folder / "whole", objects)
    assert changes > 24
    faults = [Fault(what, at) for what in What for at in range(1, changes + 1, EVERY_NTH)]
    faults += [
        Fault(what, at, reads=True)
        for what in What
        if what not in ONLY_WHERE_CHANGED
        for at in range(1, reads + 1, 2 * EVERY_NTH)
    ]

    def point(fault: Fault) -> None:
        name = f"{fault.what}-{'read' if fault.reads else 'change'}-{fault.at}"
        sweep.trial(name, lambda folder: strike(forges.launch, folder, objects, fault))

    side_by_side(point, faults)
    sweep.assert_lawful(least_points=len(faults))


def requests_of_a_whole_run(launch: Launch, folder: Path, store: ObjectStore) -> tuple[int, int]:
    """How many change the store, and how many read it; less those at the end that may not come every time."""
    made = make_job(folder, some_rows(ROWS))
    with proxied(store.port, folder) as (port, met):
        ended = launch(in_bucket(made, port, store.environment).start())
    assert ended.code == expected_code(made), ended.err
    return len(met.changes) - 1, len(met.reads) - 2


def strike(launch: Launch, folder: Path, store: ObjectStore, fault: Fault) -> tuple[bool, list[str]]:
    made = make_job(folder, some_rows(ROWS))
    with proxied(store.port, folder, fault) as (port, met):
        ended = launch(in_bucket(made, port, store.environment).start())
    job = in_bucket(made, store.port, store.environment)
    where = (met.reads if fault.reads else met.changes)[fault.at - 1 :][:1]
    violations = [] if ended.killed else ill_mannered(ended)
    if not ended.killed and ended.code not in {expected_code(job), DISK_FAILED}:
        violations.append(f"ended with {ended.code}: {ended.err.strip()[-300:]}")
    if fault.what in {What.BUSY, What.LOST} and ended.code != expected_code(job):
        violations.append(f"it did not ask again: ended with {ended.code}: {ended.err.strip()[-300:]}")
    return met.fired, [f"at {where}: {line}" for line in [*violations, *resumed(job, launch, store)]]


def resumed(job: BucketJob, launch: Launch, store: ObjectStore) -> list[str]:
    before = durable_in_bucket(job, job.folder / "look")
    ended = launch(job.start())
    if ended.code != expected_code(job):
        return [f"resume ended with {ended.code}: {ended.err.strip()[-600:]}"]
    return [
        *broken(job, [before], crashes=1, slack_rows=1),
        *check_rest(job, launch),
        *differs_from_its_bucket(job, store),
    ]
