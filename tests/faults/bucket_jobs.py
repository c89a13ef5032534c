"""Jobs whose runs are in a bucket, and what must hold of the bucket alone, whatever the machines had."""

import shutil
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from serving.store.bucket import copy_of
from tests.faults.files import Committed, committed, contents, only_run
from tests.faults.jobs import RUN, Job
from tests.object_store import BUCKET, ObjectStore

COPIES = Path(".gristmill") / "buckets"
OF_THIS_MACHINE = ("lock", "logs", "meters", "leases", "ledger.duckdb")
ON_ANOTHER_MACHINE = [*RUN, "--take-over"]


@dataclass(frozen=True, slots=True)
class BucketJob(Job):
    """`runs` is the copy that this machine works on."""

    name: str = ""  # of its folder in the bucket

    @property
    def runs(self) -> Path:
        return self.folder / COPIES / sha256(self.url.encode()).hexdigest()[:12] / self.folder_name

    @property
    def folder_name(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.name}"


def in_bucket(job: Job, port: int, environment: dict[str, str]) -> BucketJob:
    """The same job, which finds its bucket at a port."""
    name = f"{job.folder.parent.name}/{job.folder.name}"
    given = {field.name: getattr(job, field.name) for field in fields(Job)}
    found = {**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "GRISTMILL_RUNS": f"s3://{BUCKET}/{name}"}
    return BucketJob(**{**given, "variables": tuple(found.items()), "name": name})


def on_another_machine(job: BucketJob) -> BucketJob:
    """The same job in a folder of its own, with a copy of its own; what both spend is noted in one place."""
    folder = job.folder.with_name(f"{job.folder.name}-elsewhere")
    folder.mkdir()
    for file in ("job.toml", "prompts.jsonl"):
        shutil.copy(job.folder / file, folder)
    job.audit.touch()
    (folder / job.audit.name).symlink_to(job.audit)
    return replace(job, folder=folder)


def durable_in_bucket(job: BucketJob, place: Path) -> Committed:
    """What counts right now, as any other machine would find it."""
    run = only_run(copy_of(job.url, place))
    found = committed(run) if run else Committed({}, {})
    shutil.rmtree(place)
    return found


def differs_from_its_bucket(job: BucketJob, store: ObjectStore) -> list[str]:
    """What this machine's copy of a run that is done has, and the bucket has not, or the other way round."""
    here = {name: data for name, data in contents(job.runs).items() if _counts(name)}
    there = {name: data for name, data in store.contents(job.name).items() if _counts(name)}
    names = sorted({name for name, _ in here.items() ^ there.items()})
    return [f"the copy and the bucket differ in {', '.join(names[:4])}"] if names else []


def lose_copy(job: BucketJob) -> None:
    """The next start is on another machine; the one before may live, for all that it knows."""
    shutil.rmtree(job.folder / COPIES.parent, ignore_errors=True)


def _counts(name: str) -> bool:
    return not any(part in OF_THIS_MACHINE for part in Path(name).parts)


def use(environment: dict[str, str], monkeypatch: Any) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
