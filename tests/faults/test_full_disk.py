"""A disk that is really full, not one that only says so."""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.crash import durable
from tests.faults.jobs import Job, Row, make_job
from tests.faults.laws import end_and_check, ill_mannered
from tests.faults.process import Forges, side_by_side
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

KIB = (256, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192)
LEAST_THAT_FILL = 5


@contextmanager
def disk(folder: Path, kib: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: no disk can be mounted here ({mounted.stderr.decode().strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)


def some_megabytes() -> list[Row]:
    """Prompts that do not compress."""
    words = random.Random(10)
    return [Row(f"id-{n}", " ".join(f"{words.getrandbits(80):x}" for _ in range(120))) for n in range(400)]


def test_a_full_disk_stops_a_run_in_good_order_and_space_resumes_it(forges: Forges, sweep: Sweep) -> None:
    def point(kib: int) -> None:
        name = f"{kib}-KiB"
        sweep.judge(name, lambda: filled(make_job(sweep.folder / name, some_megabytes()), kib))

    def filled(job: Job, kib: int) -> list[str]:
        with forges.one() as launch, disk(job.runs, kib):
            ended = launch(job.start())
            violations = ill_mannered(ended)
            if ended.code == 0:
                sweep.note("large enough")
                return violations
            sweep.point(job.folder.name, fired=True)
            if not any(words in ended.err for words in ("MiB", "No space left on device")):
                violations.append(f"does not say that space is needed: {ended.err.strip()}")
            before = durable(job)
            grow(job.runs)
            return [*violations, *end_and_check(job, launch, [before], crashes=1)]

    side_by_side(point, KIB)
    sweep.assert_lawful(least_points=LEAST_THAT_FILL)
