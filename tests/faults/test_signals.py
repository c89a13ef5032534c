"""Asked to end, at random times: what is finished is settled, so that a resume runs no row again."""

import random
import signal

import pytest

from tests.faults.crash import durable, long_form
from tests.faults.files import spent_lines
from tests.faults.jobs import Job, make_job, some_rows
from tests.faults.laws import end_and_check, expected_code, ill_mannered
from tests.faults.process import Command, Ended, Forges, Launch, side_by_side
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS, ECHO_S = 30, 0.2  # longer than a run may take to end: one that does not heed a signal is late
TIMES = long_form("GRISTMILL_SIGNALS", 8)
INTERRUPTED = 130
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST_END_S, OF_THE_COMMAND_S = 5.0, 20.0


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_a_run_in_good_order(number: signal.Signals, forges: Forges, sweep: Sweep) -> None:
    moments = random.Random(number)

    def point(numbered: tuple[int, float]) -> None:
        place, after_s = numbered
        job = make_job(sweep.folder / f"{number.name}-{place}", some_rows(ROWS), echo_s=ECHO_S)
        sweep.trial(job.folder.name, lambda _: interrupted(job, forges.launch, number, after_s))

    side_by_side(point, enumerate(moments.uniform(0.0, 0.9) for _ in range(TIMES)))
    sweep.assert_lawful(least_points=TIMES)


def test_a_second_signal_ends_a_run_at_once_and_as_safely(forges: Forges, sweep: Sweep) -> None:
    moments = random.Random(2)

    def point(numbered: tuple[int, float]) -> None:
        place, after_s = numbered
        job = make_job(sweep.folder / f"twice-{place}", some_rows(ROWS), echo_s=ECHO_S)
        sweep.trial(job.folder.name, lambda _: interrupted(job, forges.launch, signal.SIGINT, after_s, twice=True))

    side_by_side(point, enumerate(moments.uniform(0.1, 0.8) for _ in range(TIMES)))
    sweep.assert_lawful(least_points=TIMES)


def test_a_signal_ends_the_real_command_in_good_order(command: Command, sweep: Sweep) -> None:
    for number in SIGNALS:
        for after_s in (1.2, 1.8):
            job = make_job(sweep.folder / f"{number.name}-{after_s}", some_rows(200), echo_s=ECHO_S, shipped=True)
            sweep.trial(job.folder.name, lambda _, job=job, s=after_s, n=number: interrupted(job, command, n, s))
    sweep.assert_lawful(least_points=len(SIGNALS) * 2)


def interrupted(
    job: Job, launch: Launch, number: signal.Signals, after_s: float, twice: bool = False
) -> tuple[bool, list[str]]:
    """Send it; a run that was quicker is started anew, and asked sooner."""
    ended = launch(job.start(signals=((number, after_s), *([(number, 0.005)] if twice else []))))
    if ended.sent == 0:
        return interrupted_sooner(job, launch, number, after_s, twice)
    at_once = twice and ended.sent == 2
    violations = of_the_end(job, ended, number)
    if ended.wall_s > after_s + (OF_THE_COMMAND_S if job.shipped else LONGEST_END_S):
        violations.append(f"took {ended.wall_s - after_s:.1f} s to end")
    crashes = 1 if at_once else 0
    make_job(job.folder, job.rows, shipped=job.shipped)  # the resume need not take long
    return True, [*violations, *end_and_check(job, launch, [durable(job)], crashes, slack_rows=crashes)]


def interrupted_sooner(
    job: Job, launch: Launch, number: signal.Signals, after_s: float, twice: bool
) -> tuple[bool, list[str]]:
    if after_s < 0.01:
        return False, []
    again = make_job(job.folder.with_name(f"{job.folder.name}-again"), job.rows, echo_s=ECHO_S, shipped=job.shipped)
    return interrupted(again, launch, number, after_s / 2, twice)


def of_the_end(job: Job, ended: Ended, number: signal.Signals) -> list[str]:
    """130, or done; before anything is spent, the signal's own end is as good."""
    if ended.code == -number:
        unspent = not spent_lines(job.audit)
        return [] if unspent else [f"died of {number.name} with {len(spent_lines(job.audit))} rows spent on"]
    if ended.code in (INTERRUPTED, expected_code(job)):
        return ill_mannered(ended)
    return [*ill_mannered(ended), f"ended with {ended.code}: {ended.err.strip()[-300:]}"]
