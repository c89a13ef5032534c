"""`gristmill status` tells the truth at once, also of a process that could not say goodbye."""

import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults.jobs import STATUS, make_job, some_rows
from tests.faults.process import Command, Ended, Forges
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

TIMES = 8
WITHIN_S = 1.0


def test_status_says_stopped_within_a_second_of_a_kill(forges: Forges, command: Command, sweep: Sweep) -> None:
    """The run is the real command."""

    def killed(folder: Path) -> tuple[bool, list[str]]:
        job = make_job(folder, some_rows(600), echo_s=0.02, shipped=True)
        ends: list[Ended] = []
        # Long enough to be at its answers, also on a busy machine.
        start = job.start(signals=((signal.SIGKILL, 4.0),))
        run = threading.Thread(target=lambda: ends.append(command(start)))
        run.start()
        while run.is_alive() and not job.audit.exists():
            time.sleep(0.01)
        during = forges.launch(job.start(STATUS, words=_folder(folder / "during")))
        run.join()
        after = forges.launch(job.start(STATUS, words=_folder(folder / "after")))
        violations = []
        if ": running" not in during.out:
            violations.append(f"of a run that ran: {during.out} {during.err}")
        if ": stopped" not in after.out or after.wall_s > WITHIN_S:
            violations.append(f"{after.wall_s:.2f} s after the kill: {after.out} {after.err}")
        return ends[0].killed, violations

    for number in range(TIMES):
        sweep.trial(f"kill-{number}", killed)
    sweep.assert_lawful(least_points=TIMES)


def _folder(folder: Path) -> Path:
    folder.mkdir()
    return folder
