"""The disk says no at each call in turn: the process ends in good order, and a resume completes the run."""

import errno
from pathlib import Path

import pytest

from tests.faults.crash import durable, golden, long_form, run_under
from tests.faults.files import Committed
from tests.faults.jobs import Job, make_job, plain_rows
from tests.faults.laws import broken, check_rest, ill_mannered
from tests.faults.process import Command, Forges, Launch, side_by_side
from tests.faults.shim import CHANGES, EVERY, Action, Armed, Call, Fault, Kind
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS = 10  # four journal frames, two segments
OPENS = Kind.OPEN_READ | Kind.OPEN_WRITE
NEEDS_SPACE = Kind.OPEN_WRITE | Kind.WRITE | Kind.MKDIR | Kind.RENAME | Kind.TRUNCATE
OF_THE_LEDGER = ".ledger.duckdb"  # a third of all calls is DuckDB's, to one file that is made anew at will
EVERY_NTH_CALL = long_form("GRISTMILL_EVERY_NTH_CALL", 3)  # that changes the run; 1 tries every call there is
EVERY_NTH_OF_THE_OTHERS = 8 if EVERY_NTH_CALL > 1 else 1
RERUN_EVERY = 8

FAULTS = {
    "EIO": Fault(action=Action.FAIL, error=errno.EIO, kinds=EVERY & ~Kind.SYNC),
    "ENOSPC": Fault(action=Action.FAIL, error=errno.ENOSPC, kinds=NEEDS_SPACE, lasting=True),
    "EMFILE": Fault(action=Action.FAIL, error=errno.EMFILE, kinds=OPENS),
    "EROFS": Fault(action=Action.FAIL, error=errno.EROFS, kinds=NEEDS_SPACE, lasting=True),
    "failed-fsync": Fault(action=Action.FAIL, error=errno.EIO, kinds=Kind.SYNC),
    "short-write": Fault(action=Action.SHORT, kinds=Kind.WRITE),
    "lost-write": Fault(action=Action.LOSE, kinds=Kind.WRITE),
}


def job_in(folder: Path) -> Job:
    return make_job(folder, plain_rows(ROWS))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_call_ends_in_good_order_and_a_resume_completes_the_run(
    name: str, forges: Forges, sweep: Sweep
) -> None:
    fault = FAULTS[name]
    whole = golden(job_in(sweep.folder / "golden"), forges.launch, fault.kinds)
    assert whole.ended.code == 0, whole.ended.err
    points = worth_a_trial(whole.calls)

    def point(at: int) -> None:
        sweep.trial(f"{name}-{at}", lambda folder: struck(job_in(folder), at))

    def struck(job: Job, at: int) -> tuple[bool, list[str]]:
        with forges.one() as launch:
            return strike(job, launch, fault.before(at), rerun=at % RERUN_EVERY == 0)

    side_by_side(point, points)
    sweep.assert_lawful(least_points=len(points))


def test_a_fault_at_a_call_of_the_real_command_ends_in_good_order_too(command: Command, sweep: Sweep) -> None:
    def job(folder: Path) -> Job:
        return make_job(folder, plain_rows(ROWS), shipped=True)

    def point(name: str) -> None:
        fault = FAULTS[name]
        whole = golden(job(sweep.folder / f"golden-{name}"), command, fault.kinds)
        assert whole.ended.code == 0, whole.ended.err
        at = len(whole.calls) // 2
        sweep.trial(f"{name}-{at}", lambda folder: strike(job(folder), command, fault.before(at), rerun=True))

    side_by_side(point, FAULTS)
    sweep.assert_lawful(least_points=len(FAULTS))


def worth_a_trial(calls: list[Call]) -> list[int]:
    """Of the calls that change the run, and of the others, as many as time allows."""
    first = [call.ordinal for call in calls if changes_the_run(call)]
    others = [call.ordinal for call in calls if not changes_the_run(call)]
    return sorted([*first[::EVERY_NTH_CALL], *others[::EVERY_NTH_OF_THE_OTHERS]])


def changes_the_run(call: Call) -> bool:
    return call.kind in CHANGES and OF_THE_LEDGER not in call.path


def strike(job: Job, launch: Launch, fault: Fault, rerun: bool) -> tuple[bool, list[str]]:
    """Let a fault happen, then resume."""
    ended, met = run_under(job, launch, fault, log=True)
    violations = ill_mannered(ended)
    if fault.kinds == Kind.SYNC:
        violations += after_a_failed_fsync(job, ended.code, met)
    if fault.action is Action.SHORT and ended.code != 0:
        violations.append(f"a short write was not completed; ended with {ended.code}: {ended.err.strip()[-300:]}")
    # A write that was lost and not noticed can leave a file that cannot be read; the resume must find out.
    before = Committed({}, {}) if fault.action is Action.LOSE else durable(job)
    resumed = launch(job.start())
    if resumed.code != 0:
        violations.append(f"resume ended with {resumed.code}: {resumed.err.strip()[-600:]}")
    else:
        violations += [line for line in broken(job, [before], crashes=1) if not excused(line, met)]
        violations += check_rest(job, launch) if rerun else []
    return met.fired, [f"at {met.where}: {line}" for line in violations]


def excused(violation: str, met: Armed) -> bool:
    """A file that the disk would not let go is left behind."""
    return met.call.startswith("unlink") and violation.startswith("left behind") and "," not in violation


def after_a_failed_fsync(job: Job, code: int, met: Armed) -> list[str]:
    """The kernel may have dropped the pages: the process must not go on as if it knew what is on the disk."""
    calls = met.logged()
    failed = next(place for place, call in enumerate(calls) if call.ordinal == met.at)
    later = [call for call in calls[failed + 1 :] if call.pid == calls[failed].pid and call.kind in CHANGES]
    of_the_run = [f"{call.name} {call.path}" for call in later if call.path.startswith(f"{job.runs}/prompts-")]
    violations = ["it ended with 0 after a failed fsync"] if code == 0 else []
    if of_the_run:
        violations.append(f"it went on after a failed fsync: {', '.join(of_the_run[:3])}")
    return violations
