"""Whoever only looks at a run is in nobody's way."""

import subprocess
import sys
from pathlib import Path

from serving.store.run import Run, RunHeld

LOOKER = """
import sys
from pathlib import Path
from serving.store.run import Run
run = Run(Path(sys.argv[1]))
print("looking", flush=True)
while True:
    run.is_held()
"""


def can_write(run: Run) -> bool:
    try:
        with run.writer():
            return True
    except RunHeld:
        return False


def test_asking_for_the_status_never_keeps_a_writer_out(tmp_path: Path) -> None:
    """A shared lock, held for the blink of a look, would refuse some 1 in 20 writers here."""
    run = Run(tmp_path)
    assert can_write(run)  # which makes the lock file
    command = [sys.executable, "-c", LOOKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as looker:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "looking\n"
        refused = sum(not can_write(run) for _ in range(300))
        assert looker.poll() is None, "the looker looked all the time"
        looker.kill()
    assert refused == 0
