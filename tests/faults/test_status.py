"""`gristmill status` tells the truth at once, also of a process that could not say goodbye."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import COMMAND
from tests.faults.jobs import RUN, STATUS, make_job, some_rows
from tests.faults.process import Forges, clean_environment
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

TIMES = 6
WITHIN_S = 1.0
START_UP_S = 30.0


def test_status_says_stopped_within_a_second_of_a_kill(forges: Forges, sweep: Sweep) -> None:
    """The run is the real command."""

    def killed(folder: Path) -> tuple[bool, list[str]]:
        job = make_job(folder, some_rows(200), echo_s=0.2, shipped=True)
        run = subprocess.Popen(
            [COMMAND, *RUN], cwd=folder, env=clean_environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        give_up = time.monotonic() + START_UP_S
        while not job.audit.exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        during = forges.launch(job.start(STATUS))
        os.killpg(run.pid, signal.SIGKILL)
        began = time.monotonic()
        after = forges.launch(job.start(STATUS))
        while ": stopped" not in after.out and time.monotonic() - began < WITHIN_S:  # a killed process dies in its time
            after = forges.launch(job.start(STATUS))
        while ": stopped" not in after.out and time.monotonic() - began < WITHIN_S:  # it takes a moment to die
            after = forges.launch(job.start(STATUS))
        took_s = time.monotonic() - began
        violations = []
        if ": running" not in during.out:
            violations.append(f"of a run that runs: {during.out} {during.err}")
        if ": stopped" not in after.out or took_s > WITHIN_S:
            violations.append(f"{took_s:.2f} s after the kill: {after.out} {after.err}")
        return run.wait() == -signal.SIGKILL, violations

    for number in range(TIMES):
        sweep.trial(f"kill-{number}", killed)
    sweep.assert_lawful(least_points=TIMES)
