"""That the writer of a run in a bucket lives. A bucket has no lock that the kernel drops when its holder dies.

The writer says so again and again, by the clock of the store alone, so no two machines' clocks are compared. With it
go the meters, so that whoever takes the run over knows what was spent and lost up to the last word.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from serving.store.bucket import Bucket, BucketFault

BEAT_S = 10.0
LEASE_S = 60.0  # of silence, after which whoever wrote the run is taken for dead
LIVES, GONE = b"lives", b"gone"


@contextmanager
def leased(bucket: Bucket, run: Path, epoch: int) -> Iterator[None]:
    """For as long as this is held, others see that the writer of this epoch lives."""
    over = threading.Event()
    file = _file(run, epoch)
    bucket.put(file, LIVES)
    beats = threading.Thread(target=_beat, args=(bucket, run, file, over), name="lease", daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        _try_to_put(bucket, file, GONE)


def is_alive(bucket: Bucket, run: Path, epoch: int, taken: Path) -> bool:
    """True if the writer that left the file `taken` has given a sign of life within LEASE_S."""
    file = _file(run, epoch)
    if bucket.read(file) == GONE:
        return False
    signs = [changed for sign in (taken, file) if (changed := bucket.changed_at(sign)) is not None]
    asked = run / "leases" / f"asked-{bucket.token}"
    bucket.put(asked, b"what time is it")
    now = bucket.changed_at(asked)
    bucket.remove(asked)
    return now is not None and bool(signs) and now - max(signs) < timedelta(seconds=LEASE_S)


def _beat(bucket: Bucket, run: Path, file: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        _try_to_put(bucket, file, LIVES)
        for meter in sorted((run / "meters").glob("*.meter")):
            try:
                _try_to_put(bucket, meter, meter.read_bytes())
            except FileNotFoundError:
                pass  # it was booked just now


def _try_to_put(bucket: Bucket, file: Path, data: bytes) -> None:
    """A word that is lost does no harm: the next one comes, and what is written finds out by itself."""
    try:
        bucket.put(file, data)
    except BucketFault:
        pass


def _file(run: Path, epoch: int) -> Path:
    return run / "leases" / f"{epoch:04}"
