"""The vocabulary: the values that every part of gristmill speaks in. It knows no file and no clock.

What there is one of for every row is a msgspec.Struct: as frozen as a frozen dataclass, made in a tenth of the time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from msgspec import Struct, structs


class Endpoint(StrEnum):
    """The OpenAI Batch `url` of a request."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"


class Outcome(StrEnum):
    """How a row left the run. A row that a stop left unanswered is `expired`; it is derived, never stored."""

    ANSWERED = "answered"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"


class Source(StrEnum):
    """Where a row's answer came from."""

    ENGINE = "engine"  # the row itself was run
    EXACT = "exact"  # another row with the same key was run
    SEMANTIC = "semantic"  # a near-duplicate row was run
    EARLIER = "earlier"  # an earlier run had answered a row with the same key


Lever = str  # what saves a run of the full model, and needs a certificate for it: NEAR, or the name of a cheaper lane
NEAR: Lever = "near"  # a near-duplicate's answer
MOST_LOOKS = 4  # of a lever in a run, each with audits of its own


class Message(Struct, frozen=True):
    role: str  # system | user | assistant
    content: str


class Sampling(Struct, frozen=True, cache_hash=True):
    """How an answer is drawn. Defaults come from the job file; a row may override each."""

    max_tokens: int = 256
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps every token
    min_p: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None  # how many alternatives to report at each token; None reports none
    json_schema: str | None = None  # canonical JSON text of the schema that the answer must satisfy

    @property
    def repeatable(self) -> bool:
        """True if the same request is meant to give the same answer, so that one answer may serve two rows."""
        return self.temperature == 0.0 or self.seed is not None


class Request(Struct, frozen=True):
    """One prompt to answer. `row` is its place in the run's input and comes back on exactly one Completion."""

    row: int
    custom_id: str
    endpoint: Endpoint
    messages: tuple[Message, ...]  # of a completion request: one user message that holds the bare prompt
    sampling: Sampling
    prompt_token_ids: tuple[int, ...] | None = None  # None where no tokenizer is at hand (a remote model)
    adapter: str | None = None  # the LoRA adapter that answers it


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not admitted, and why. It never costs a token."""

    row: int
    file: str
    line: int  # 1-based; of a Parquet file the row number
    custom_id: str | None
    code: str  # E_JSON, E_DUPID, ...
    reason: str


class Usage(Struct, frozen=True):
    """Tokens of one request, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt tokens, those found in the prefix cache
    drafted_tokens: int = 0  # guessed by speculation
    accepted_tokens: int = 0  # of the drafted ones, those that became output


class Choice(Struct, frozen=True):
    text: str
    finish_reason: str  # stop | length
    logprobs: list[dict[str, Any]] | None = None  # a token each: token, logprob, top_logprobs


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer. `code` is what callers decide on."""

    code: str
    reason: str


class Completion(Struct, frozen=True):
    """What an engine gave for one request: choices, or a failure, never both."""

    row: int
    choices: tuple[Choice, ...] = ()
    usage: Usage = Usage(0, 0)
    failure: Failure | None = None
    queue_s: float | None = None  # from reaching the engine to being scheduled
    prefill_s: float | None = None  # from being scheduled to the first token
    decode_s: float | None = None  # from the first to the last token


@dataclass(frozen=True, slots=True)
class Rates:
    """Engine seconds that a token costs, measured from the engine's own steps."""

    prefill_s_per_token: float  # of a prompt token that was not in the prefix cache
    decode_s_per_token: float  # of an output token


@dataclass(frozen=True, slots=True)
class Lane:
    """A model at a precision: one way to get an answer."""

    name: str  # full | quantized | a cheaper one, as the job names it
    model: str  # local folder, or the name that a server knows


@dataclass(frozen=True, slots=True)
class Price:
    """What engine time, or tokens, cost. Exactly one of the two kinds is set; both carry where they come from."""

    source: str
    as_of: str  # ISO date, or "job file"
    usd_per_hour: Decimal | None = None
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None

    @property
    def bills_time(self) -> bool:
        return self.usd_per_hour is not None


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine's steps did, summed over them: those in which prompts came to their first token apart from others.
    A prompt that takes several steps counts, with all its tokens, in the last of them."""

    decode_s: float = 0.0
    decode_steps: float = 0.0
    decode_tokens: float = 0.0
    mixed_s: float = 0.0
    mixed_steps: float = 0.0
    mixed_prefill: float = 0.0  # tokens of prompts, and
    mixed_decode: float = 0.0  # put out
    running_s: float = 0.0  # sequences that ran, times the seconds of the step
    kv_s: float = 0.0  # share of the KV cache's blocks that were in use, times the same

    def since(self, before: "Load") -> "Load":
        return Load(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


@dataclass(frozen=True, slots=True)
class Overhead:
    """Money that no single row caused: engine start-up, embedding, work that a crash threw away."""

    kind: str  # start_up | shut_down | embedding | audit | judging | waste
    lane: str | None
    seconds: float
    usd: Decimal
    tokens: int = 0  # of waste: computed, and in no settled row
    engine: str | None = None  # which start of which lane's engine it belongs to


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """What an engine's steps took beside what they computed: all that a least-squares fit of the parts' times needs.

    The parts x of a step are: the step itself (1), tokens of prompts, the tokens that these attend to, sequences that
    decode, and the tokens that those attend to. With y its seconds, the sums over steps are of x, of y, and of the
    products x x' / y (the upper triangle, row by row), so that a step weighs as much as it is long.
    """

    seconds: float
    totals: tuple[float, ...]
    products: tuple[float, ...]

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "StepEvidence":
        """Raises ValueError where it is not of five parts."""
        totals, products = tuple(told["totals"]), tuple(told["products"])
        if (len(totals), len(products)) != (5, 15):
            raise ValueError(f"{len(totals)} parts and {len(products)} products of steps, where 5 and 15 belong")
        return cls(told["seconds"], totals, products)

    def __add__(self, other: "StepEvidence") -> "StepEvidence":
        return StepEvidence(
            self.seconds + other.seconds,
            tuple(a + b for a, b in zip(self.totals, other.totals, strict=True)),
            tuple(a + b for a, b in zip(self.products, other.products, strict=True)),
        )

    def __mul__(self, weight: float) -> "StepEvidence":
        """The same as if it had been seen `weight` times."""
        return StepEvidence(
            self.seconds * weight,
            tuple(total * weight for total in self.totals),
            tuple(product * weight for product in self.products),
        )

    @property
    def steps(self) -> float:
        return self.totals[0]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure before it is known, with the interval that holds it in nine cases of ten."""

    value: float
    low_90: float
    high_90: float


class EngineDied(RuntimeError):
    """The engine ended before its work was done. What it had finished stays finished.

    `suspects` are the rows that may have killed it, none where it cannot tell; the first `newest` of them ran for the
    first time in the step that was its last, which makes them the likeliest.
    """

    def __init__(self, message: str, suspects: tuple[int, ...] = (), newest: int = 0) -> None:
        super().__init__(message)
        self.suspects = suspects
        self.newest = newest


class Comparison(NamedTuple):
    """Two answers to one request, to be judged."""

    row: int  # the request's place in the run's input
    answer: str  # what the row would be given
    reference: str  # what it was answered by the full model


class Judge(Protocol):
    """Says of each answer whether it says the same as its reference. What it cannot tell is False.

    It is asked all at once, since some judges start a process or a model for it.
    """

    def agree(self, comparisons: Sequence[Comparison]) -> Sequence[bool]: ...


class Engine(Protocol):
    """Anything that answers requests.

    `run` pulls lazily, keeps a bounded window in flight and yields in completion order, every request once. None among
    the requests says that there is none for now: it asks again when one in flight has finished. It ends early, leaving
    what is in flight, once the `stop` that the engine was made with says so.

    Raises:
        EngineDied: from `run`.
    """

    def run(self, requests: Iterator[Request | None]) -> Iterator[Completion]: ...

    @property
    def rates(self) -> Rates | None:
        """Engine seconds by token so far; None where the engine does not show its steps."""

    @property
    def load(self) -> Load | None:
        """Over all its steps so far; None where the engine does not show them."""

    @property
    def under_way(self) -> Mapping[int, int]:
        """By row, the tokens put out so far of those in flight, as of a moment ago; empty where that is not seen."""

    @property
    def evidence(self) -> StepEvidence | None:
        """Of all its steps so far; None where it does not show what each of them computes."""


def canonical_json(value: Any) -> str:
    """One text for one value: keys sorted, no spaces, no NaN, text left as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@lru_cache(1024)  # a run has few different ones, and a million rows
def sampling_json(sampling: Sampling) -> str:
    return canonical_json(structs.asdict(sampling))


@lru_cache(1024)
def sampling_from_json(text: str) -> Sampling:
    fields = json.loads(text)
    return Sampling(**{**fields, "stop": tuple(fields["stop"])})
