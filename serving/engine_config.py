"""Vocabulary: what an engine is built from. The optimizer chooses these values; an engine is made of the same ones."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True, slots=True)
class PagedCache:
    """The KV cache, in blocks. None leaves the choice to the machine; memory is a size or, on a GPU, a share."""

    block_tokens: int | None = None
    dtype: str = "auto"  # auto (what the model computes in) | fp8 | fp8_e4m3 | fp8_e5m2
    memory_gib: float | None = None
    memory_share: float | None = None  # of a GPU's memory, weights included
    prefix_caching: bool = True
    prefix_hash: Literal["sha256", "sha256_cbor"] = "sha256"
    offload_gib: float = 0.0  # of the host's memory, for blocks that a GPU has no room for


class Draft(StrEnum):
    """Where speculative tokens come from."""

    OFF = "off"
    NGRAM = "ngram"  # what followed the same few tokens earlier in this sequence
    SUFFIX = "suffix"  # the same over all sequences, by suffix trees of any length
    MODEL = "draft"  # a smaller model with the same vocabulary
    EAGLE = "eagle"
    EAGLE3 = "eagle3"
    MEDUSA = "medusa"
    MTP = "mtp"  # the model's own multi-token heads


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead and checked in one step. Greedy answers are the same with and without it."""

    draft: Draft = Draft.OFF
    tokens: int = 4  # guessed at a step, at most
    model: str | None = None  # folder of a draft model, or of EAGLE or Medusa heads
    lookup: tuple[int, int] = (2, 4)  # shortest and longest n-gram that is looked for
    acceptance: Literal["standard", "block"] = "standard"  # rejection sampling token by token, or over the whole guess


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Ranks that run one model together: tensor x pipeline of them, `data` times over."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1  # engines side by side, each with its own cache and window
    expert: bool = False  # of a mixture of experts: whole experts on each rank, instead of slices of all
    executor: Literal["auto", "mp", "ray"] = "auto"

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline


@dataclass(frozen=True, slots=True)
class Precision:
    weights: str = "auto"  # auto | float32 | bfloat16 | float16: what the model computes in
    quantize: Literal["none", "fp8", "int8"] = "none"  # weights made smaller as they are loaded; files stay as they are


@dataclass(frozen=True, slots=True)
class Batching:
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    chunked_prefill: bool = True  # a long prompt shares steps with decoding, instead of stopping it
    async_scheduling: bool | None = None  # the next step is scheduled while this one runs; None: where it can


@dataclass(frozen=True, slots=True)
class Adapters:
    """LoRA adapters by name; a row names the one it wants as its `model`."""

    folders: tuple[tuple[str, str], ...] = ()  # (name, folder)
    rank: int = 16  # the largest among them
    at_once: int = 1  # different ones in a batch


NO_ADAPTERS = Adapters()


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is built from. `auto` and None are settled by the machine, see serving.engines.machine."""

    cache: PagedCache = PagedCache()
    speculation: Speculation = Speculation()
    parallelism: Parallelism = Parallelism()
    precision: Precision = Precision()
    batching: Batching = Batching()
    adapters: Adapters = NO_ADAPTERS
    max_model_len: int | None = None
    compiled: bool | None = None  # None: compiled where a GPU makes it worth its start-up time


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's config.json says of its size, as far as engines and costs depend on it.

    Widths are counts of numbers. A mixture of experts has `experts` of them in every layer but `dense_layers` of them;
    each token passes `experts_per_token`, and one more of width `shared_intermediate` where that is set.
    Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) is told by `kv_lora_rank`; `head_dim` is then of what a
    query and a key have beside their position.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_model_len: int
    intermediate: int = 0  # width of a dense layer's MLP; 0: not said
    gated: bool = True  # the MLP is three matrices (SwiGLU and its like), else two
    tied: bool = False  # the head that finds the next token is the embedding's matrix
    experts: int = 0  # of a mixture; 0: dense
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0  # of a mixture: layers that have no experts
    kv_lora_rank: int = 0  # of latent attention; 0: keys and values are kept whole
    q_lora_rank: int = 0
    rope_head_dim: int = 0
    value_head_dim: int = 0
    window: int = 0  # tokens that a windowed layer looks back; 0: none does
    windowed_layers: int = 0
    mtp_layers: int = 0  # multi-token prediction heads that it brings along

    def kv_bytes_per_token(self, bytes_per_number: int) -> int:
        """What one token keeps in the KV cache: a key and a value for each layer and KV head, or one latent."""
        if self.kv_lora_rank:
            return self.layers * (self.kv_lora_rank + self.rope_head_dim) * bytes_per_number
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_number
