"""The job file: TOML in, a checked `Job` out. Its keys are a contract; an unknown one names the nearest known."""

import difflib
import json
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.engine_config import (
    NO_ADAPTERS,
    Adapters,
    Batching,
    Draft,
    EngineConfig,
    PagedCache,
    Parallelism,
    Precision,
    Speculation,
)
from serving.records import NEAR, Lane, Sampling


class BadJob(ValueError):
    """The job file, or an override of it, is wrong. Nothing was spent."""


class Section(BaseModel):
    """What a key means stands below it, and from there in docs/job-file.md (`make docs`). "Default: ..." at the end of
    that says what is decided later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, use_attribute_docstrings=True
    )


class DatasetSection(Section):
    path: str
    """A file, a glob, or a URL such as `s3://bucket/prompts.jsonl`; `.jsonl` (or `.ndjson`), `.csv`, each also with
    `.gz` or `.zst`, and `.parquet`."""
    prompt: str | None = None
    """Template over columns, `"Classify: {{text}}"`; columns and nothing else."""
    system: str | None = None
    """Template of a system message, beside `prompt`."""
    id: str | None = None
    """The column that names a row; unique, or the job is refused with both places. Default: `custom_id`, else `id`,
    else `row-N`, its place in the input."""
    on_bad_row: Literal["refuse", "stop"] = "refuse"
    """`"refuse"`: that row alone; `"stop"`: the whole job at the first one, before anything is spent."""
    delimiter: str = Field(",", pattern=r'^[^"\r\n\x00]$')
    """Of CSV: `";"`, `"\\t"`; it is never guessed."""
    max_ratio: float = Field(200.0, ge=1)
    """How many times its size a compressed or Parquet file may decode to, beyond 16 MiB."""

    @model_validator(mode="after")
    def _a_system_message_stands_beside_a_prompt(self) -> "DatasetSection":
        if self.system is not None and self.prompt is None:
            raise ValueError("dataset.system needs dataset.prompt beside it; rows without a template bring their own")
        return self


class ModelSection(Section):
    full: str
    """A local folder (safetensors only), one [in a bucket](scale.md#in-a-bucket), or the name a server knows."""
    quantized: str | None = None
    """The same model, quantized."""
    cheaper: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], str] = {}
    """Other models with the same tokenizer, `{small = "models/small-int8"}`, the cheapest first: lanes that answer what
    they are certified for, see [reuse.md](reuse.md#cheaper-models)."""
    adapters: dict[str, str] = {}
    """LoRA adapters of the full model, `{french = "adapters/french"}`; a row asks for one by its name in `model`."""


class SamplingSection(Section):
    max_tokens: int = Field(256, ge=1, le=131_072)
    """The longest answer. This and all below: a row may say otherwise."""
    temperature: float = Field(0.0, ge=0, le=2)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the likeliest tokens that have this share together."""
    top_k: int = Field(0, ge=0)
    """Draw among so many; 0: all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw among those that have at least this share of the likeliest one's."""
    seed: int | None = Field(None, ge=-(2**63) + 1, le=2**63 - 1)
    """With one, the same request draws the same answer, and equal rows may share it."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=4)
    """Texts at which an answer ends."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Taken off the logits of tokens that the answer has already."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """The same, once for each time."""
    repetition_penalty: float = Field(1.0, gt=0, le=2)
    """Over 1 makes tokens of the prompt and the answer less likely."""


class EngineSection(Section):
    kind: Literal["vllm", "http", "echo"] = "vllm"
    """vLLM on this machine, an OpenAI-compatible server, or the double, which only echoes."""
    plan: Literal["auto"] = "auto"
    """What is not set below is chosen for the machine and the work."""
    # vllm
    python: str | None = None
    """Another interpreter that has vLLM. Default: this one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`"auto"`: bfloat16 where the machine multiplies it natively, else float32."""
    quantize: Literal["none", "fp8", "int8"] = "none"
    """Weights made smaller as they are loaded."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences that run at once. Default: CPU: 64, GPU: 256, or what a forecast finds cheaper."""
    max_num_batched_tokens: int = Field(2048, ge=1)
    """Tokens of one step. Default: CPU: 2048, GPU: 8192."""
    chunked_prefill: bool = True
    """A long prompt shares steps with decoding."""
    async_scheduling: bool | None = None
    """The next step is scheduled while this one runs; GPUs only. Default: where it can."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and answer together. Default: the model's."""
    block_size: int | None = Field(None, ge=1)
    """Tokens of a KV block. Default: 32 on CPU, vLLM's own on a GPU."""
    kv_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Of the KV cache."""
    kv_gib: float | None = Field(None, gt=0)
    """Size of the KV cache. Default: what the work can use."""
    kv_share: float | None = Field(None, gt=0, le=1)
    """Or the share of a GPU's memory, weights included. Default: what the work can use."""
    kv_offload_gib: float = Field(0.0, ge=0)
    """Of the host's memory, for blocks that a GPU has no room for."""
    prefix_caching: bool = True
    """Blocks of the KV cache are shared by prompts that begin alike."""
    prefix_hash: Literal["sha256", "sha256_cbor"] = "sha256"
    """What such blocks are known by."""
    speculation: Draft = Field(Draft.OFF, strict=False)
    """Who guesses tokens that the model then only checks, see [engine.md](engine.md)."""
    speculation_tokens: int = Field(4, ge=1, le=64)
    """Guessed at a step."""
    speculation_model: str | None = None
    """Folder of the draft model or heads."""
    speculation_lookup: tuple[int, int] = Field((2, 4), strict=False)
    """Shortest and longest n-gram that is looked up."""
    speculation_acceptance: Literal["standard", "block"] = "standard"
    """How guesses are accepted, token by token or as a block."""
    compiled: bool | None = None
    """Compiling takes minutes on a small CPU. Default: GPU: true, CPU: false."""
    tensor_parallel: int = Field(1, ge=1)
    """Ranks that share each layer."""
    pipeline_parallel: int = Field(1, ge=1)
    """Ranks that share the layers out."""
    replicas: int = Field(1, ge=1)
    """Engines side by side, each with its own cache: on this machine, or where `[cluster]` says."""
    expert_parallel: bool = False
    """Whole experts on each rank."""
    executor: Literal["auto", "mp", "ray"] = "auto"
    """What runs the ranks."""
    # http
    base_url: str = ""
    """Of an OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key."""
    concurrency: int = Field(32, ge=1)
    """Requests in flight at a server at most; how many there are, it decides."""
    server: Literal["openai", "vllm", "sglang", "tgi", "tensorrt-llm", "llama.cpp"] = "openai"
    """Which server that is, see [servers.md](servers.md)."""
    timeout_s: float = Field(600.0, gt=0)
    """For one reply, to its end."""
    row_timeout_s: float = Field(3600.0, gt=0)
    """For all tries of a row."""
    max_retries: int = Field(6, ge=0)
    """Tries after the first."""
    cache_salt: bool = False
    """Send the tenant's salt, for a vLLM server that tenants share."""
    # echo
    echo_s: float = Field(0.0, ge=0)
    """How long the double takes for an answer."""
    echo_fails: list[str] = []
    """Ids of rows that the double does not answer."""
    echo_audit: str | None = None
    """A file in which the double notes every token as it is spent."""

    @model_validator(mode="after")
    def _http_needs_a_url(self) -> "EngineSection":
        if self.kind == "http" and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f'engine.base_url = "{self.base_url}"; write a URL such as "http://127.0.0.1:8000/v1"')
        if "@" in self.base_url.split("://")[-1].split("/")[0]:
            raise ValueError("engine.base_url holds a user or password; name a variable in engine.api_key_env instead")
        if "?" in self.base_url or "#" in self.base_url:  # a key there would be written down with the run
            raise ValueError("engine.base_url has a query; name a variable with the key in engine.api_key_env instead")
        return self

    @model_validator(mode="after")
    def _a_draft_comes_from_somewhere(self) -> "EngineSection":
        needs_model = self.speculation in (Draft.MODEL, Draft.EAGLE, Draft.EAGLE3, Draft.MEDUSA)
        if needs_model and self.speculation_model is None:
            raise ValueError(f'engine.speculation = "{self.speculation}" needs its folder in engine.speculation_model')
        if not needs_model and self.speculation_model is not None:
            raise ValueError(f'engine.speculation = "{self.speculation}" has no use for engine.speculation_model')
        low, high = self.speculation_lookup
        if not 1 <= low <= high:
            raise ValueError(f"engine.speculation_lookup = [{low}, {high}]; write [shortest, longest] from 1 on")
        return self

    @model_validator(mode="after")
    def _the_cache_has_one_size(self) -> "EngineSection":
        if self.kv_gib is not None and self.kv_share is not None:
            raise ValueError("engine.kv_gib and engine.kv_share both size the KV cache; give one of them")
        return self

    def config(self, adapters: Adapters = NO_ADAPTERS) -> EngineConfig:
        return EngineConfig(
            cache=PagedCache(
                self.block_size, self.kv_dtype, self.kv_gib, self.kv_share, self.prefix_caching, self.prefix_hash,
                self.kv_offload_gib,
            ),
            speculation=Speculation(
                self.speculation, self.speculation_tokens, self.speculation_model, self.speculation_lookup,
                self.speculation_acceptance,
            ),
            parallelism=Parallelism(
                self.tensor_parallel, self.pipeline_parallel, self.replicas, self.expert_parallel, self.executor
            ),
            precision=Precision(self.dtype, self.quantize),
            batching=Batching(
                self.max_num_seqs, self.max_num_batched_tokens, self.chunked_prefill, self.async_scheduling
            ),
            adapters=adapters,
            max_model_len=self.max_model_len,
            compiled=self.compiled,
        )  # fmt: skip


class ReuseSection(Section):
    exact: bool = True
    """Equal requests share an answer (not those drawn at random: no seed, temperature above 0)."""
    earlier: bool = True
    """What an earlier run in the same folder has answered is taken from it, at no cost, see
    [reuse.md](reuse.md#earlier-runs); not without `reuse.exact`."""
    semantic: bool = False
    """Near-duplicates share an answer where a certificate covers them, see [reuse.md](reuse.md); else they are run."""
    min_similarity: float = Field(0.8, gt=0, le=1)
    """Cosine that a near-duplicate must reach, before the vetoes."""
    embedder: str = "models/all-minilm-l6-v2"
    """The model that finds them, a local folder."""


class RouteSection(Section):
    to_quantized: Literal["none", "short", "all", "auto", "certified"] = "none"
    """`"certified"`: as many as an audit allows, see [reuse.md](reuse.md). By your own rule, with no audit: `"short"`,
    `"all"`, or `"auto"`: short ones, unless a look after the first rows finds that the full model's engine, which runs
    already, is sooner done with them than one of their own would be, start included. Then the full model answers
    them."""
    short_prompt_tokens: int = Field(64, ge=1)
    """How long a short prompt is at most."""


class QualitySection(Section):
    max_wrong: float = Field(0.02, gt=0, lt=1)
    """The share of rows served without a run of the full model that may have another answer than it would have
    given."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """How sure that is."""
    repeats: int = Field(100, ge=0)
    """Audited rows that the full model is asked twice, to know how often it disagrees with itself."""
    judge: Literal[
        "exact", "normalised", "numeric", "multiple-choice", "json-equal", "embedding", "command", "model"
    ] = "exact"
    """What counts as the same answer, see [reuse.md](reuse.md#judges)."""
    min_similarity: float = Field(0.9, gt=0, le=1)
    """`"embedding"`: cosine that two answers must reach."""
    command: list[Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]] = []
    """`"command"`: the program and its arguments, `["python3", "check.py"]`; see [reuse.md](reuse.md#a-command)."""
    command_timeout_s: float = Field(60.0, gt=0)
    """How long it may take for a verdict, from the one before."""

    @model_validator(mode="after")
    def _a_command_is_for_its_judge(self) -> "QualitySection":
        if self.judge == "command" and not self.command:
            raise ValueError('quality.judge = "command" needs quality.command, such as ["python3", "check.py"]')
        if self.command and self.judge != "command":
            raise ValueError(f'quality.judge = "{self.judge}" has no use for quality.command; write judge = "command"')
        return self

    def settings_that_change_a_verdict(self) -> dict[str, Any]:
        """Without the keys of judges that are not asked."""
        others = {"repeats"}  # it changes what is known of the judge, and no verdict
        others |= {"min_similarity"} if self.judge != "embedding" else set()
        others |= {"command", "command_timeout_s"} if self.judge != "command" else set()
        return self.model_dump(exclude=others)


class BudgetSection(Section):
    usd: Decimal | None = Field(None, gt=0, strict=False)
    """The run stops before it is passed, exit code 3, resumable."""
    deadline: str | None = Field(None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """A local time of day, the next to come, `"06:00"`; the run stops there, resumable."""


class TokenPriceSection(Section):
    input_usd_per_mtok: Decimal = Field(ge=0, strict=False)
    output_usd_per_mtok: Decimal = Field(ge=0, strict=False)


class PriceSection(Section):
    hardware: str | None = None
    """A machine of the price list (`optimizer/catalogue/prices.toml`), such as `"aws/g5.xlarge"`; where it has several
    prices, with `@region` and ` spot` behind it."""
    usd_per_hour: Decimal | None = Field(None, gt=0, strict=False)
    """Or the price of an hour."""
    machines: int = Field(1, ge=1)
    """So many are paid for at once, such as those of a cluster; an hour costs that many times as much."""
    input_usd_per_mtok: Decimal | None = Field(None, ge=0, strict=False)
    """Or a price by tokens: of a million in prompts, which goes with"""
    output_usd_per_mtok: Decimal | None = Field(None, ge=0, strict=False)
    """that of a million in answers."""
    lanes: dict[str, TokenPriceSection] = {}
    """Of cheaper models, by tokens too: `{small = {input_usd_per_mtok = 0.1, output_usd_per_mtok = 0.4}}`. Default: the
    full model's."""
    catalogue: str | None = None
    """A TOML file of your own machines, GPUs and models, over those that are shipped; see
    [planning.md](planning.md#your-own-gpus-and-prices); or `--catalogue F`."""

    @model_validator(mode="after")
    def _one_kind_of_price(self) -> "PriceSection":
        per_token = (self.input_usd_per_mtok, self.output_usd_per_mtok)
        if (per_token[0] is None) != (per_token[1] is None):
            raise ValueError("price.input_usd_per_mtok and price.output_usd_per_mtok go together")
        kinds = [self.hardware is not None, self.usd_per_hour is not None, per_token[0] is not None]
        if sum(kinds) != 1:
            raise ValueError("give one price: hardware, usd_per_hour, or the two usd_per_mtok")
        if self.machines > 1 and per_token[0] is not None:
            raise ValueError(
                "price.machines multiplies the price of an hour, but prices here are by tokens; leave it out"
            )
        if self.lanes and per_token[0] is None:
            raise ValueError("price.lanes are prices by tokens; give price.input_usd_per_mtok and output_usd_per_mtok")
        return self


class ClusterSection(Section):
    ray: str | None = None
    """`"auto"`, or the address of a [Ray cluster](scale.md): its machines run the engine's replicas."""
    least: int = Field(1, ge=1)
    """Replicas that must be ready before the first row is asked; the others join as they come."""
    cpus: float = Field(1.0, gt=0)
    """What Ray sets aside for each on a cluster without GPUs; with them it is a GPU for each rank."""


class TenantSection(Section):
    name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Answers and keys never cross tenants."""


class Job(Section):
    """A job file, checked. Its relative paths start where the command is called."""

    dataset: DatasetSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    engine: EngineSection = EngineSection()
    reuse: ReuseSection = ReuseSection()
    route: RouteSection = RouteSection()
    quality: QualitySection = QualitySection()
    budget: BudgetSection = BudgetSection()
    price: PriceSection
    tenant: TenantSection = TenantSection()
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _replicas_have_a_place(self) -> "Job":
        engine, cluster = self.engine, self.cluster
        if engine.kind == "http" and (engine.replicas > 1 or cluster.ray is not None):
            raise ValueError("engine.replicas and cluster.ray start engines, but a server has its own; leave them out")
        if engine.kind == "echo" and engine.replicas > 1 and cluster.ray is None:
            raise ValueError('engine.replicas of kind "echo" run on a cluster; set cluster.ray, or leave them out')
        if cluster.least > engine.replicas:
            raise ValueError(f"cluster.least = {cluster.least}, but engine.replicas = {engine.replicas}; lower it")
        return self

    @model_validator(mode="after")
    def _a_route_needs_its_lane(self) -> "Job":
        rule, cheaper = self.route.to_quantized, self.model.cheaper
        if rule != "none" and self.model.quantized is None and not (cheaper and rule == "certified"):
            raise ValueError(f'route.to_quantized is "{rule}", but model.quantized is not set')
        if cheaper and rule != "certified":
            raise ValueError(
                f'model.cheaper names lanes that answer under a certificate alone, but route.to_quantized is "{rule}";'
                ' write "certified"'
            )
        if taken := sorted(cheaper.keys() & {"full", "quantized", NEAR}):
            raise ValueError(f"model.cheaper: {taken[0]!r} is the name of another lane; take a name of your own")
        if unknown := sorted(self.price.lanes.keys() - set(self.cheaper_lanes)):
            known = ", ".join(self.cheaper_lanes) or "none"
            raise ValueError(f"price.lanes: {unknown[0]!r} is no cheaper lane of this job; there are: {known}")
        return self

    @property
    def computes_here(self) -> bool:
        """True if its engines run on this machine: what they need of it can be checked, and what they take forecast."""
        return self.engine.kind == "vllm" and self.cluster.ray is None

    @property
    def lanes(self) -> dict[str, Lane]:
        """In the order in which they run."""
        models = {"full": self.model.full, **self.model.cheaper}
        if self.model.quantized is not None:
            models["quantized"] = self.model.quantized
        return {name: Lane(name, model) for name, model in models.items()}

    @property
    def cheaper_lanes(self) -> tuple[str, ...]:
        """All but the full one, the cheapest first."""
        return tuple(name for name in self.lanes if name != "full")

    @property
    def certifies(self) -> bool:
        """True if rows may be served without a run of the full model, as far as audits allow it."""
        return self.reuse.semantic or self.route.to_quantized == "certified"

    @property
    def embeds(self) -> bool:
        return self.reuse.semantic or (self.certifies and self.quality.judge == "embedding")

    @property
    def default_sampling(self) -> Sampling:
        return Sampling(**{**self.sampling.model_dump(), "stop": tuple(self.sampling.stop)})

    def settings_that_change_an_answer(self) -> dict[str, Any]:
        """What a run id is made of, beside the bytes of the input and of the models."""
        of_engine = {"kind", "base_url", "dtype", "kv_dtype", "max_model_len"}
        of_engine |= {
            name
            for name, default in (("quantize", "none"), ("server", "openai"))
            if getattr(self.engine, name) != default
        }
        engine = self.engine.model_dump(include=of_engine)
        dataset = self.dataset.model_dump(exclude={"path"})
        parts = {"sampling": self.sampling.model_dump()}
        none_of = {name for name in ("adapters", "cheaper") if not getattr(self.model, name)}
        parts["model"] = self.model.model_dump(exclude=none_of)
        by_length = self.route.to_quantized in ("short", "auto")
        # A key that is switched off changes nothing, so it names no other run.
        parts["reuse"] = self.reuse.model_dump(exclude=self._reuse_left_as_it_is)
        parts["route"] = self.route.model_dump(include=None if by_length else {"to_quantized"})
        if self.certifies:
            parts["quality"] = self.quality.settings_that_change_a_verdict()
        return {**parts, "dataset": dataset, "engine": engine, "tenant": self.tenant.name}

    @property
    def _reuse_left_as_it_is(self) -> set[str]:
        unused = set() if self.reuse.semantic else {"min_similarity"}
        unused |= set() if self.embeds else {"embedder"}
        return unused | ({"earlier"} if self.reuse.earlier else set())


def load_job(path: Path, overrides: list[str] | None = None) -> Job:
    """Read a job file and lay `a.b=value` overrides over it.

    Raises:
        BadJob: unreadable, not TOML, or a key or value that is not known.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadJob(f"{path}: cannot be read ({error.strerror}); name an existing job file") from None
    except UnicodeDecodeError as error:
        raise BadJob(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadJob(f"{path}: not TOML: {error}") from None
    for override in overrides or []:
        _lay_over(values, override)
    return parse_job(values, str(path))


def parse_job(values: dict[str, Any], name: str) -> Job:
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        raise BadJob("\n".join(f"{name}: {_in_words(problem)}" for problem in error.errors())) from None


def as_override(key: str, text: str) -> str:
    """An override that gives `key` exactly this text, whatever it looks like."""
    return f"{key}={json.dumps(text, ensure_ascii=False)}"


def _lay_over(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or len(tables) != 1 or not last:
        raise BadJob(f"--set {override}: write section.key=value, such as engine.kind=http")
    section = values.setdefault(tables[0], {})
    if not isinstance(section, dict):
        raise BadJob(f"--set {override}: {tables[0]} is not a section of the job file")
    if tables[0] == "price":  # one price replaces another; two would contradict each other
        per_token = ("input_usd_per_mtok", "output_usd_per_mtok")
        no_price = ("catalogue", "machines")
        kept = (*((*per_token, "lanes") if last in per_token else (last,)), *no_price)
        if last not in no_price:
            section = values["price"] = {name: value for name, value in section.items() if name in kept}
    section[last] = _toml_value(text)


def _toml_value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself, so that shells need no second pair of quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _in_words(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"key {where!r} is missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{where} = {problem['input']!r}: {problem['msg']}"


def _nearest(loc: tuple[Any, ...]) -> str:
    known = _known_keys(loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"


def _known_keys(section: tuple[Any, ...]) -> list[str]:
    fields = Job.model_fields
    if section:
        annotation = fields[str(section[0])].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Section)
        fields = annotation.model_fields
    return sorted(fields)
