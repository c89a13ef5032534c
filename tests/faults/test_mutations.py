"""Inputs that nobody has thought of, through the whole command: an answer or a refusal, in time, in bounds."""

import json
from pathlib import Path

import pytest

from tests.corpus.mutate import mutated
from tests.faults.crash import long_form
from tests.faults.files import spent_lines
from tests.faults.jobs import Job, make_job
from tests.faults.laws import ill_mannered
from tests.faults.process import Command, Ended, Forges, Launch, side_by_side
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

MUTATIONS = long_form("GRISTMILL_MUTATIONS", 500)
REAL = 8
HANG_S = 5.0
START_UP_S = 10.0  # of the real command, on a machine that is busy with others
MOST_KIB = 512 * 1024
REFUSED = 2


def test_no_mutated_input_breaks_the_command(forges: Forges, sweep: Sweep) -> None:
    def point(number: int) -> None:
        def tried(folder: Path) -> tuple[bool, list[str]]:
            with forges.one() as launch:
                return True, read(folder, number, launch, sweep)

        sweep.trial(f"mutation-{number}", tried)

    side_by_side(point, range(MUTATIONS))
    sweep.assert_lawful(least_points=MUTATIONS)


def test_no_mutated_input_breaks_the_real_command(command: Command, sweep: Sweep) -> None:
    def point(number: int) -> None:
        sweep.trial(
            f"mutation-{number}", lambda folder: (True, read(folder, number, command, sweep, HANG_S + START_UP_S))
        )

    side_by_side(point, range(REAL))
    sweep.assert_lawful(least_points=REAL)


def read(folder: Path, number: int, launch: Launch, sweep: Sweep, limit_s: float = HANG_S) -> list[str]:
    name, content = mutated(number)
    job = job_over(folder, name, content, number)
    ended = launch(job.start(limit_s=limit_s))
    if ended.timed_out:  # on a machine that is busy with others, only a second time says that it is us
        job = job_over(folder / "again", name, content, number)
        ended = launch(job.start(limit_s=limit_s))
    sweep.note(f"ended with {ended.code}")
    return [f"{name}: {line}" for line in [*ill_mannered(ended), *of_a_refusal(job, ended)]]


def job_over(folder: Path, name: str, content: bytes, number: int) -> Job:
    """Every second stops at a bad row, where the others refuse it and go on."""
    job = make_job(folder, [], shipped=True)
    text = (folder / "job.toml").read_text(encoding="utf-8")
    dataset = f'{json.dumps(name)}\non_bad_row = "{"stop" if number % 2 else "refuse"}"'
    (folder / "job.toml").write_text(text.replace('"prompts.jsonl"', dataset), encoding="utf-8")
    (folder / name).write_bytes(content)
    return job


def of_a_refusal(job: Job, ended: Ended) -> list[str]:
    violations = []
    if ended.rss_kib > MOST_KIB:
        violations.append(f"took {ended.rss_kib} KiB")
    if ended.code == REFUSED:
        if spent_lines(job.audit):
            violations.append("refused, but tokens were spent")
        if not ended.err.startswith("gristmill: "):
            violations.append(f"refused without a word: {ended.err!r:.200}")
    return violations
