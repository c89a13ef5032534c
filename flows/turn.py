"""One engine at a time on the same cores or GPUs: a run waits for its turn while another has what its engine needs.

Two engines on one machine take each other's memory and time; a job that is alone is sooner done, and the next one too.
The locks are the kernel's, so they are free at once when a holder is killed, whatever scheduled it.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows.limits import Stopped
from flows.open import Work
from serving.engines.machine import CannotRun, Machine, this_machine

POLL_S = 0.2


@contextmanager
def turn(work: Work) -> Iterator[None]:
    """Waits, and says for whom. An engine elsewhere, or the double, needs nothing of this machine.

    Raises:
        Stopped: a limit was reached before it came.
    """
    if not work.job.computes_here:
        yield
        return
    ranks = work.job.engine.config().parallelism
    with ExitStack() as held:
        for place in places(this_machine(), ranks.ranks * ranks.data):
            held.enter_context(_holding(_folder() / f"{place}.lock", work))
        yield


def places(machine: Machine, ranks: int) -> list[str]:
    """What an engine of so many ranks takes: the first GPUs that it sees, or every core that it may use. Always in the
    same order, so that two runs never wait for each other."""
    if not machine.has_gpu:
        return [f"core-{core}" for core in sorted(machine.cores)]
    return sorted(f"gpu-{gpu.number.replace('/', '-')}" for gpu in machine.gpus[:ranks])


@contextmanager
def _holding(lock: Path, work: Work) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        said = False
        while not _taken(descriptor):
            if not said:
                work.progress.say(f"waits for its turn: {_holder(descriptor)} has an engine on {lock.stem}")
                said = True
            if work.limits.stop():
                raise Stopped
            time.sleep(POLL_S)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} (run {work.run.run_id})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"


def _folder() -> Path:
    """One for all runs of this user on this machine, wherever they were called."""
    folder = Path(tempfile.gettempdir(), f"gristmill-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise CannotRun(f"{folder}: not a folder of this user; whoever made it could hold every run up, so delete it")
    return folder
