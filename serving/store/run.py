"""A run folder: its name comes from its content, its run.json never changes, one writer holds it at a time."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from serving.records import Lever, canonical_json
from serving.store import durable
from serving.store.bucket import Bucket, bucket_of, is_locked
from serving.store.durable import WRITING, drop_unfinished, make_folder
from serving.store.lease import LEASE_S, is_alive, leased
from serving.store.parts import Manifest, read_manifest
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.segments import read_segments
from serving.store.writer import Writer, holder_of, take, taken_file

FORMAT = 7
LOCK_TRIES, LOCK_WAIT_S = 10, 0.02
FACTS = ("format", "job", "fingerprint", "input", "models", "price", "created_unix_s")


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
    def exists(self) -> bool:
        return (self.folder / "run.json").exists()

    @property
    def facts(self) -> dict[str, Any]:
        """run.json: job, fingerprint, input, models, price, versions."""
        file = self.folder / "run.json"
        facts = read_sealed(file)
        if (found := facts.get("format")) != FORMAT:
            older = isinstance(found, int) and found < FORMAT
            way_out = "run its job again into another --runs" if older else "upgrade gristmill"
            raise Corrupt(f"{file}: format {found}, this gristmill reads {FORMAT}; {way_out}")
        if missing := [name for name in FACTS if name not in facts]:
            raise Corrupt(f"{file}: not a run.json; it lacks {', '.join(missing)}")
        return facts

    # A stage's manifest: its existence means that the stage is complete.
    @property
    def admitted(self) -> Path:
        return self.folder / "admitted" / "admit.json"

    @property
    def collapsed(self) -> Path:
        return self.folder / "decisions" / "collapse.json"

    @property
    def earlier(self) -> Path:
        return self.folder / "decisions" / "earlier.json"

    @property
    def routed(self) -> Path:
        return self.folder / "decisions" / "route.json"

    def look(self, lever: Lever, number: int) -> Path:
        """Which rows may be served without a run of the full model, and which of them are audited."""
        return self.folder / "decisions" / f"look-{lever}-{number}.json"

    def verdict(self, lever: Lever, number: int) -> Path:
        """What the audits of a look have found, and whether they certify it."""
        return self.folder / "decisions" / f"verdict-{lever}-{number}.json"

    def trials(self, lever: Lever, which: str) -> Path:
        """What a cheaper model answered rows that it may not serve yet."""
        return self.folder / "decisions" / f"trials-{lever}-{which}.json"

    def cascade(self, lever: Lever) -> Path:
        """That a cheaper model was asked all that it may serve, before it is chosen what it does."""
        return self.folder / "decisions" / f"cascade-{lever}.json"

    @property
    def noise(self) -> Path:
        """How often the full model disagrees with itself."""
        return self.folder / "decisions" / "noise.json"

    @property
    def stages(self) -> tuple[Path, ...]:
        decisions = self.folder / "decisions"
        kinds = ("look", "trials", "cascade", "verdict")
        looks = (file for kind in kinds for file in sorted(decisions.glob(f"{kind}-*.json")))
        return (self.admitted, self.collapsed, self.earlier, self.routed, *looks, self.noise)

    @property
    def embedded(self) -> Path:
        """The manifest of the vectors: it lists those that there are so far, while there are not all."""
        return self.folder / "vectors" / "embed.json"

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Of all that is checked against one; the ledger reads the stages alone."""
        return (*self.stages, self.embedded)

    @property
    def segments(self) -> Path:
        return self.folder / "segments"

    @property
    def meters(self) -> Path:
        return self.folder / "meters"

    @property
    def live(self) -> Path:
        """Where the run stands, while it goes on; beside the meters, since as these it vouches for nothing."""
        return self.meters / "live"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    def meter_file(self, engine: str) -> Path:
        return self.meters / f"{engine}.meter"

    def has_booked(self, engine: str) -> bool:
        """True if a stage that is complete has booked what this engine spent."""
        return any(line["engine"] == engine for line in self._stage_overheads())

    def spent_usd(self) -> Decimal:
        """All that is booked: every row's charge and every overhead."""
        spent = self.stages_usd()
        for segment in read_segments(self.segments):
            spent += Decimal(segment.facts["usd"]) + sum((line.usd for line in segment.overheads), Decimal(0))
        return spent

    def stages_usd(self) -> Decimal:
        """What the stages before any engine have spent: embedding."""
        return sum((Decimal(line["usd"]) for line in self._stage_overheads()), Decimal(0))

    def _stage_overheads(self) -> list[dict[str, Any]]:
        manifest = read_manifest(self.collapsed)
        return manifest.figures["overheads"] if manifest else []

    def stage(self, manifest_file: Path) -> Manifest:
        """What a completed stage left; raises Corrupt if it has not completed."""
        manifest = read_manifest(manifest_file)
        if manifest is None:
            raise Corrupt(f"{manifest_file}: this stage has not completed; run the job again to resume it")
        return manifest

    @contextmanager
    def writer(self, take_over: bool = False, notes: Mapping[str, Any] | None = None) -> Iterator[Writer]:
        """Hold the run as its only writer, under an epoch of its own, in whose record the notes are kept.

        `take_over` puts a new lock in the place of the one that is held: for a holder that hangs, or that lives on
        another machine which can no longer be asked. It finds out at its next step, and ends.

        Raises:
            RunHeld: another process holds it; the message says which.
        """
        make_folder(self.folder)
        bucket = bucket_of(self.folder)
        with ExitStack() as held:
            with bucket.still() if bucket else nullcontext():
                descriptor = _open_lock(self.lock, take_over)
                held.callback(os.close, descriptor)
                if not _lock(descriptor) or not _is_lock(descriptor, self.lock):
                    raise self._held("wait for it or stop it, or if that cannot be, add --take-over")
            os.utime(descriptor)  # the lock's time tells which run was worked on last
            drop_unfinished(self.folder)
            if bucket is not None:
                bucket.pull(self.folder)
                if not take_over and self._is_held_elsewhere(bucket):
                    raise self._held(f"wait for it; {LEASE_S:.0f} s after its last sign of life the run is free again")
                notes = {**(notes or {}), "copy": bucket.token}
            writer = take(self.segments, self.meters, notes or {})
            if bucket is not None:
                held.enter_context(leased(bucket, self.folder, writer.epoch))
            yield writer
            writer.end()

    def _is_held_elsewhere(self, bucket: Bucket) -> bool:
        """By a writer on another machine that lives. One that wrote from this copy is dead, since we have its lock."""
        holder = holder_of(self.segments)
        if holder is None or holder.get("copy") == bucket.token:
            return False
        epoch = holder["epoch"]
        ended = (self.segments / f"writer-{epoch:04}.ended.json").exists()
        return not ended and is_alive(bucket, self.folder, epoch, taken_file(self.segments, epoch))

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def is_held(self) -> bool:
        """True while a live process writes this run; right at once after a kill, since the kernel drops the lock, but
        for one that wrote a bucket from another machine."""
        bucket = bucket_of(self.folder)
        return is_locked(self.lock) or (bucket is not None and self._is_held_elsewhere(bucket))

    def last_use_unix_s(self) -> float:
        """As far as this machine knows; of a run in a bucket that was not worked on here, what its last writer said."""
        if self.lock.exists():
            return self.lock.stat().st_mtime
        holder = holder_of(self.segments)
        return float(holder["since_unix_s"]) if holder else 0.0

    def _held(self, way_out: str) -> RunHeld:
        holder = holder_of(self.segments)
        who = "another process"
        if holder is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since_unix_s"]))
            who = f"process {holder['pid']} on {holder['host']} since {since}"
        return RunHeld(f"run {self.run_id} is being written by {who}; {way_out}")


def _open_lock(lock: Path, take_over: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if not take_over:
        return durable.DISK.open(lock, flags, 0o600)
    aside = lock.with_name(f".lock.{os.getpid()}{WRITING}")
    descriptor = durable.DISK.open(aside, flags | os.O_TRUNC, 0o600)
    durable.DISK.rename(aside, lock)
    return descriptor


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


def _is_lock(descriptor: int, lock: Path) -> bool:
    """False if somebody put another lock in its place meanwhile, or took the run away."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def make_run_id(dataset: str, fingerprint: dict[str, Any]) -> str:
    """A name that a person can tell apart, and that says exactly what ran."""
    stem = Path(dataset).name.split(".")[0] or "run"
    readable = "".join(character if character.isalnum() else "-" for character in stem)[:40].strip("-") or "run"
    return f"{readable}-{hashlib.sha256(canonical_json(fingerprint).encode()).hexdigest()[:12]}"


def create(run: Run, facts: dict[str, Any]) -> None:
    """Give the run its run.json, if it has none yet. The caller is its writer."""
    if not run.exists:
        write_sealed(run.folder / "run.json", {"format": FORMAT, **facts})


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
        return max(known, key=lambda run: (run.last_use_unix_s(), run.run_id))
    found = [run for run in known if run.run_id.startswith(name)]
    exact = [run for run in found if run.run_id == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    listed = ", ".join(run.run_id for run in (found or known))
    raise UnknownRun(f"{'several runs start' if found else 'no run starts'} with {name!r} in {runs}/; there: {listed}")


def all_runs(runs: Path) -> list[Run]:
    return [Run(file.parent) for file in sorted(runs.glob("*/run.json"))]
