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
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class DatasetSection(Section):
    path: str  # a file, a glob, or an fsspec URL
    prompt: str | None = None  # template over columns: "Classify: {{text}}"
    system: str | None = None  # template of a system message, with `prompt`
    id: str | None = None  # the column that names a row; by default custom_id, else id, else the place in the file
    on_bad_row: Literal["refuse", "stop"] = "refuse"  # that row, or the whole job before anything is spent
    delimiter: str = Field(",", pattern=r'^[^"\r\n\x00]$')  # of CSV; none is guessed
    max_ratio: float = Field(200.0, ge=1)  # of decoded bytes to those of a compressed or Parquet file

    @model_validator(mode="after")
    def _a_system_message_stands_beside_a_prompt(self) -> "DatasetSection":
        if self.system is not None and self.prompt is None:
            raise ValueError("dataset.system needs dataset.prompt beside it; rows without a template bring their own")
        return self


class ModelSection(Section):
    full: str
    quantized: str | None = None
    # Other lanes, the cheapest first: each answers what it is certified for, before the next and before `quantized`.
    cheaper: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], str] = {}
    adapters: dict[str, str] = {}  # LoRA adapters of the full model: the name that a row's `model` gives, its folder


class SamplingSection(Section):
    max_tokens: int = Field(256, ge=1, le=131_072)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63) + 1, le=2**63 - 1)
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=4)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=2)


class EngineSection(Section):
    kind: Literal["vllm", "http", "echo"] = "vllm"
    plan: Literal["auto"] = "auto"  # what is not fixed below is chosen for the machine
    # vllm
    python: str | None = None  # another interpreter that has vLLM
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["none", "fp8", "int8"] = "none"
    max_num_seqs: int = Field(64, ge=1)
    max_num_batched_tokens: int = Field(2048, ge=1)
    chunked_prefill: bool = True
    async_scheduling: bool | None = None
    max_model_len: int | None = Field(None, ge=1)
    block_size: int | None = Field(None, ge=1)
    kv_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    kv_gib: float | None = Field(None, gt=0)
    kv_share: float | None = Field(None, gt=0, le=1)
    kv_offload_gib: float = Field(0.0, ge=0)
    prefix_caching: bool = True
    prefix_hash: Literal["sha256", "sha256_cbor"] = "sha256"
    speculation: Draft = Field(Draft.OFF, strict=False)
    speculation_tokens: int = Field(4, ge=1, le=64)
    speculation_model: str | None = None
    speculation_lookup: tuple[int, int] = Field((2, 4), strict=False)
    speculation_acceptance: Literal["standard", "block"] = "standard"
    compiled: bool | None = None
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    data_parallel: int = Field(1, ge=1)
    expert_parallel: bool = False
    executor: Literal["auto", "mp", "ray"] = "auto"
    # http
    base_url: str = ""
    api_key_env: str | None = None  # the environment variable that holds the key
    concurrency: int = Field(32, ge=1)
    server: Literal["openai", "vllm", "sglang", "tgi", "tensorrt-llm", "llama.cpp"] = "openai"  # see docs/servers.md
    timeout_s: float = Field(600.0, gt=0)  # of one try, to the end of its reply
    row_timeout_s: float = Field(3600.0, gt=0)  # of all tries of a row
    max_retries: int = Field(6, ge=0)
    cache_salt: bool = False  # send the tenant's salt, for a vLLM server that tenants share
    # echo
    echo_s: float = Field(0.0, ge=0)  # how long an answer takes
    echo_fails: list[str] = []  # the ids of rows that get no answer
    echo_audit: str | None = None  # a file that notes every token as it is spent

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
                self.tensor_parallel, self.pipeline_parallel, self.data_parallel, self.expert_parallel, self.executor
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
    earlier: bool = True  # what an earlier run has answered is taken from there; not without `exact`
    semantic: bool = False  # near-duplicates share an answer where an audit certifies it, else they are run
    min_similarity: float = Field(0.8, gt=0, le=1)  # cosine that a near-duplicate must reach
    embedder: str = "models/all-minilm-l6-v2"


class RouteSection(Section):
    # auto: short, as long as an engine of its own pays. certified: all that an audit allows.
    to_quantized: Literal["none", "short", "all", "auto", "certified"] = "none"
    short_prompt_tokens: int = Field(64, ge=1)  # a prompt of at most so many tokens is short


class QualitySection(Section):
    max_wrong: float = Field(0.02, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    repeats: int = Field(100, ge=0)  # audited rows that the full model is asked twice: its own disagreement
    judge: Literal[
        "exact", "normalised", "numeric", "multiple-choice", "json-equal", "embedding", "command", "model"
    ] = "exact"
    min_similarity: float = Field(0.9, gt=0, le=1)  # embedding: cosine that two answers must reach
    command: list[Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]] = []  # see docs/reuse.md
    command_timeout_s: float = Field(60.0, gt=0)  # for a verdict, from the one before it

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
    deadline: str | None = Field(None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")  # local time of day, the next to come


class TokenPriceSection(Section):
    input_usd_per_mtok: Decimal = Field(ge=0, strict=False)
    output_usd_per_mtok: Decimal = Field(ge=0, strict=False)


class PriceSection(Section):
    catalogue: str | None = None  # a file whose rows add to the shipped catalogue, or take their place
    hardware: str | None = None  # a row of the catalogue
    usd_per_hour: Decimal | None = Field(None, gt=0, strict=False)
    input_usd_per_mtok: Decimal | None = Field(None, ge=0, strict=False)
    output_usd_per_mtok: Decimal | None = Field(None, ge=0, strict=False)
    lanes: dict[str, TokenPriceSection] = {}  # of cheaper lanes; those not named cost what the full one does

    @model_validator(mode="after")
    def _one_kind_of_price(self) -> "PriceSection":
        per_token = (self.input_usd_per_mtok, self.output_usd_per_mtok)
        if (per_token[0] is None) != (per_token[1] is None):
            raise ValueError("price.input_usd_per_mtok and price.output_usd_per_mtok go together")
        kinds = [self.hardware is not None, self.usd_per_hour is not None, per_token[0] is not None]
        if sum(kinds) != 1:
            raise ValueError("give one price: hardware, usd_per_hour, or the two usd_per_mtok")
        if self.lanes and per_token[0] is None:
            raise ValueError("price.lanes are prices by tokens; give price.input_usd_per_mtok and output_usd_per_mtok")
        return self


class TenantSection(Section):
    name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


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
        kept = (*((*per_token, "lanes") if last in per_token else (last,)), "catalogue")
        if last != "catalogue":  # which is no price
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
