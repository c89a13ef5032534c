"""A run folder: its name comes from its content, its run.json never changes, one writer holds it at a time."""

import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.records import canonical_json
from serving.store.durable import make_folder, write_json
from serving.store.parts import Corrupt, Manifest, read_manifest
from serving.store.segments import SegmentWriter, next_epoch

FORMAT = 1
LOCK_TRIES, LOCK_WAIT_S = 10, 0.02
FACTS = ("format", "job", "fingerprint", "input", "price", "created_unix_s")


class RunHeld(RuntimeError):
    """Another process writes this run."""


class UnknownRun(LookupError):
    """No run of that name."""


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """run.json: job, fingerprint, input, price, versions."""
        file = self.folder / "run.json"
        try:
            facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Corrupt(f"{file}: not JSON: {error}") from None
        if isinstance(facts, dict) and facts.get("format", FORMAT) > FORMAT:
            raise Corrupt(f"{file}: format {facts['format']}, this gristmill reads up to {FORMAT}; upgrade it")
        if not isinstance(facts, dict) or (missing := [name for name in FACTS if name not in facts]):
            raise Corrupt(
                f"{file}: not a run.json; it lacks {', '.join(missing) if isinstance(facts, dict) else 'all'}"
            )
        return facts

    # A stage's manifest: its existence means that the stage is complete.
    @property
    def admitted(self) -> Path:
        return self.folder / "admitted" / "admit.json"

    @property
    def collapsed(self) -> Path:
        return self.folder / "decisions" / "collapse.json"

    @property
    def routed(self) -> Path:
        return self.folder / "decisions" / "route.json"

    @property
    def stages(self) -> tuple[Path, ...]:
        return (self.admitted, self.collapsed, self.routed)

    @property
    def segments(self) -> Path:
        return self.folder / "segments"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    def stage(self, manifest_file: Path) -> Manifest:
        """What a completed stage left; raises Corrupt if it has not completed."""
        manifest = read_manifest(manifest_file)
        if manifest is None:
            raise Corrupt(f"{manifest_file}: this stage has not completed; run the job again to resume it")
        return manifest

    @contextmanager
    def writer(self) -> Iterator[SegmentWriter]:
        """Hold the run as its only writer, under an epoch of its own.

        Raises:
            RunHeld: another process holds it; the message says which.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(descriptor):
                raise RunHeld(f"run {self.run_id} is being written by {self._holder()}; wait for it or stop it")
            make_folder(self.segments)
            lost_s = self._lost_s()
            epoch = next_epoch(self.segments)
            self._sign(descriptor, {"epoch": epoch, "pid": os.getpid(), "host": platform.node()})
            yield SegmentWriter(self.segments, epoch, lost_s)
            self._sign(descriptor, {})
        finally:
            os.close(descriptor)

    def _lost_s(self) -> float:
        """How long a writer that was killed had worked since its last durable step: what its crash threw away."""
        holder = self._signature()
        last_beat = self.last_beat_unix_s()
        if not holder or last_beat is None:
            return 0.0
        durable: list[float] = [
            file.stat().st_mtime for file in (*self.stages, *self.segments.glob("*.json")) if file.exists()
        ]
        return max(0.0, last_beat - max(float(holder["since_unix_s"]), *durable, 0.0))

    def beat(self) -> None:
        """Note that the writer is alive: what a crash threw away is measured from the last beat."""
        os.utime(self.folder / "lock")

    def last_beat_unix_s(self) -> float | None:
        lock = self.folder / "lock"
        return lock.stat().st_mtime if lock.exists() else None

    def is_held(self) -> bool:
        """True while a live process writes this run; right at once after a kill, since the kernel drops the lock."""
        lock = self.folder / "lock"
        if not lock.exists():
            return False
        with lock.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _sign(self, descriptor: int, holder: dict[str, Any]) -> None:
        """Say in the lock who holds it; an empty signature says that the holder left in good order."""
        signature = {**holder, "since_unix_s": round(time.time(), 3)} if holder else {}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signature).encode(), 0)

    def _signature(self) -> dict[str, Any]:
        lock = self.folder / "lock"
        try:
            signature: dict[str, Any] = json.loads(lock.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return signature

    def _holder(self) -> str:
        holder = self._signature()
        if not holder:
            return "another process"
        since = time.strftime("%H:%M:%S", time.localtime(holder["since_unix_s"]))
        return f"process {holder['pid']} on {holder['host']} since {since}"


def _lock(descriptor: int) -> bool:
    """Take the lock, with some patience for a reader that holds it for an instant to see whether the run is held."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_WAIT_S)
        else:
            return True
    return False


def make_run_id(dataset: str, fingerprint: dict[str, Any]) -> str:
    """A name that a person can tell apart, and that says exactly what ran."""
    stem = Path(dataset).name.split(".")[0] or "run"
    readable = "".join(character if character.isalnum() else "-" for character in stem)[:40].strip("-") or "run"
    return f"{readable}-{hashlib.sha256(canonical_json(fingerprint).encode()).hexdigest()[:12]}"


def create_or_open(runs: Path, run_id: str, facts: dict[str, Any]) -> Run:
    """The run of that id. A new one gets `facts` as its run.json; an old one keeps the run.json it has."""
    run = Run(runs / run_id)
    if not (run.folder / "run.json").exists():
        make_folder(run.folder)
        write_json(run.folder / "run.json", {"format": FORMAT, **facts})
    return run


def find_run(runs: Path, name: str) -> Run:
    """A run by its id, by the start of its id, by its folder, or `latest`.

    Raises:
        UnknownRun: none or several fit; the message lists them.
    """
    if (Path(name) / "run.json").exists():
        return Run(Path(name).resolve())
    known = all_runs(runs)
    if not known:
        raise UnknownRun(f"no run in {runs}/ yet; `gristmill run JOB.toml` makes one")
    if name == "latest":
        return max(known, key=lambda run: run.last_beat_unix_s() or 0)
    found = [run for run in known if run.run_id.startswith(name)]
    exact = [run for run in found if run.run_id == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    listed = ", ".join(run.run_id for run in (found or known))
    raise UnknownRun(f"{'several runs start' if found else 'no run starts'} with {name!r} in {runs}/; there: {listed}")


def all_runs(runs: Path) -> list[Run]:
    return [Run(file.parent) for file in sorted(runs.glob("*/run.json"))]
