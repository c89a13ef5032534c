"""Two processes at one run: one works, the other says who does."""

import platform
import random
import re
import threading
import time
from pathlib import Path

import pytest

from tests.faults.crash import long_form
from tests.faults.jobs import RUN, Job, make_job, some_rows
from tests.faults.laws import broken, check_rest, end_and_check, expected_code, ill_mannered
from tests.faults.process import Command, Ended, Forges, Launch
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS, ECHO_S = 24, 0.01
RACES = long_form("GRISTMILL_RACES", 24)
HELD_BY = re.compile(r"being written by process (?P<pid>\d+) on (?P<host>\S+)")
HELD, SUPERSEDED = 2, 6
RERUN_EVERY, ATTEMPTS = 10, 5


def test_of_two_writers_at_once_one_works_and_the_other_names_it(forges: Forges, sweep: Sweep) -> None:
    def race(folder: Path) -> tuple[bool, list[str]]:
        job = make_job(folder, some_rows(ROWS), echo_s=ECHO_S)
        one, other = both(job, forges.launch, apart_s=0.0)
        violations = judged(job, one, other)
        if sweep.points % RERUN_EVERY == 0:
            violations += check_rest(job, forges.launch)
        return True, violations

    for number in range(RACES):
        sweep.trial(f"race-{number}", race)
    sweep.assert_lawful(least_points=RACES)


def test_of_two_real_commands_at_once_one_works(command: Command, sweep: Sweep) -> None:
    def race(folder: Path) -> tuple[bool, list[str]]:
        job = make_job(folder, some_rows(ROWS), echo_s=0.1, shipped=True)
        one, other = both(job, command, apart_s=0.0)
        return True, [*judged(job, one, other), *check_rest(job, command)]

    for number in range(3):
        sweep.trial(f"race-{number}", race)
    sweep.assert_lawful(least_points=3)


def test_a_writer_that_was_superseded_settles_nothing_more(forges: Forges, sweep: Sweep) -> None:
    """The second takes the run over from the first, which lives, at a random moment."""
    moments = random.Random(16)

    def take_over(folder: Path) -> tuple[bool, list[str]]:
        apart_s = moments.uniform(0.2, 0.8)
        for attempt in range(ATTEMPTS):
            job = make_job(folder / str(attempt), some_rows(ROWS), echo_s=ECHO_S * 3)
            one, other = both(job, forges.launch, apart_s, "--take-over")
            if (one.code, other.code) == (SUPERSEDED, expected_code(job)):
                # What the first had in hand is spent and not settled: the window of one crash.
                return True, end_and_check(job, forges.launch, [], crashes=1, slack_rows=job.window_rows)
            if (one.code, other.code) != (expected_code(job), expected_code(job)):
                return True, [f"they ended with {one.code} and {other.code}: {one.err[-300:]} {other.err[-300:]}"]
            apart_s *= 0.7  # the first was done before the second came
        return False, []

    for number in range(RACES // 2):
        sweep.trial(f"take-over-{number}", take_over)
    sweep.assert_lawful(least_points=RACES // 2)


def both(job: Job, launch: Launch, apart_s: float, *more: str) -> tuple[Ended, Ended]:
    """Start the job twice, the second time with `more` arguments."""
    ends: dict[int, Ended] = {}
    at_once = threading.Barrier(2)

    def start(place: int) -> None:
        at_once.wait()
        time.sleep(apart_s * place)
        # Each writes its own words.
        folder = job.folder / f"words-{place}"
        folder.mkdir()
        ends[place] = launch(job.start([*RUN, *(more if place else ())], words=folder))

    threads = [threading.Thread(target=start, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends[0], ends[1]


def judged(job: Job, one: Ended, other: Ended) -> list[str]:
    works, waits = (one, other) if other.code == HELD else (other, one)
    violations = [*ill_mannered(one), *ill_mannered(other)]
    if (works.code, waits.code) != (expected_code(job), HELD):
        return [*violations, f"they ended with {works.code} and {waits.code}: {works.err[-300:]} {waits.err[-300:]}"]
    named = HELD_BY.search(waits.err)
    if named is None or (int(named["pid"]), named["host"]) != (works.pid, platform.node()):
        violations.append(f"process {works.pid} on {platform.node()} wrote, but the other said: {waits.err.strip()}")
    return [*violations, *broken(job, [], crashes=0)]
