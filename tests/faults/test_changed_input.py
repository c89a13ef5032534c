"""The input changes while it is being worked on: refused, or answered as it was; never a mixture."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.crash import golden, run_under
from tests.faults.files import spent_lines
from tests.faults.jobs import Job, Row, make_job, plain_rows
from tests.faults.laws import broken, check_rest, ill_mannered
from tests.faults.process import Forges, Launch
from tests.faults.shim import CHANGES, Action, Call, Fault, read_log
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

ROWS = 12
REFUSED = 2
PAUSE_S = 0.6
MOMENTS: dict[str, Callable[[Call], bool]] = {
    "after it was named and before it is read": lambda call: call.path.endswith("/runs"),
    "while it is read": lambda call: "admit-requests" in call.path,
    "while it is answered": lambda call: call.path.endswith(".journal"),
}


def replaced(file: Path) -> None:
    aside = file.with_suffix(".new")
    aside.write_text("".join(row.line for row in plain_rows(ROWS, " changed")))
    aside.rename(file)


def written_over(file: Path) -> None:
    file.write_text("".join(row.line for row in plain_rows(ROWS, " changed")))


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def grown(file: Path) -> None:
    with file.open("a") as opened:
        opened.write(Row("id-more", "one more").line)


def one_letter(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"prompt 3", b"prompt 4"))


CHANGES_OF_INPUT = (replaced, written_over, cut, grown, one_letter)


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_input_that_changes_is_refused_or_answered_as_it_was(moment: str, forges: Forges, sweep: Sweep) -> None:
    whole = golden(make_job(sweep.folder / "golden", plain_rows(ROWS)), forges.launch)
    at = next(call.ordinal for call in whole.calls if MOMENTS[moment](call))

    def changed(job: Job, change: Callable[[Path], None]) -> tuple[bool, list[str]]:
        with forges.one() as launch:
            return strike(job, launch, change, Fault(at, Action.SLEEP, kinds=CHANGES, sleep_s=PAUSE_S))

    for change in CHANGES_OF_INPUT:
        job = make_job(sweep.folder / change.__name__, plain_rows(ROWS))
        sweep.trial(job.folder.name, lambda _, job=job, change=change: changed(job, change))
    sweep.assert_lawful(least_points=len(CHANGES_OF_INPUT))


def strike(job: Job, launch: Launch, change: Callable[[Path], None], pause: Fault) -> tuple[bool, list[str]]:
    """Change the input while the process sleeps at the call."""
    done = threading.Event()

    def change_in_the_pause() -> None:
        give_up = time.monotonic() + 20
        while not done.is_set() and time.monotonic() < give_up:
            if paused():
                change(job.folder / "prompts.jsonl")
                return
            time.sleep(0.005)

    def paused() -> bool:
        return any(call.ordinal == pause.at for call in read_log(job.folder / "shim.log"))

    changer = threading.Thread(target=change_in_the_pause)
    changer.start()
    ended, met = run_under(job, launch, pause, log=True)
    done.set()
    changer.join()
    violations = ill_mannered(ended)
    if ended.code == REFUSED:
        if spent_lines(job.audit):
            violations.append("refused, but tokens were spent")
        return met.fired, violations
    if ended.code != 0:
        return met.fired, [*violations, f"ended with {ended.code}: {ended.err.strip()[-300:]}"]
    (job.folder / "prompts.jsonl").write_text("".join(row.line for row in job.rows))  # so that a rerun finds its run
    return met.fired, [*violations, *broken(job, [], crashes=0), *check_rest(job, launch)]
