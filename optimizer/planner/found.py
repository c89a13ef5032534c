"""What the search finds: a plan, what it predicts, and why it is as it is."""

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.catalogue.machines import PricedMachine
from serving.engine_config import EngineConfig
from serving.records import Interval


@dataclass(frozen=True, slots=True)
class Plan:
    """Engines of one kind on machines of one kind. `engine.parallelism.data` of them share a machine."""

    machine: PricedMachine
    machines: int
    weights: str  # precision of the weights: "bf16", "fp8", "w4a16", ...
    engine: EngineConfig

    @property
    def replicas(self) -> int:
        """Engines, over all machines."""
        return self.machines * self.engine.parallelism.data

    @property
    def name(self) -> str:
        """All that tells it from others, in one line."""
        engine, split = self.engine, self.engine.parallelism
        parts = [
            f"{self.machines} x {self.machine.hardware}",
            f"{self.replicas} engines" if self.replicas > 1 else "1 engine",
            f"TP {split.tensor}" + (f" PP {split.pipeline}" if split.pipeline > 1 else ""),
            self.weights + (f" with {engine.cache.dtype} KV" if engine.cache.dtype != "auto" else ""),
            f"{engine.batching.max_num_seqs} sequences, {engine.batching.max_num_batched_tokens} tokens a step",
        ]
        if engine.speculation.draft != "off":
            parts.append(f"{engine.speculation.tokens} guessed by {engine.speculation.draft}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Of one GPU."""

    usable_gib: float  # that the engine may take
    weights_gib: float
    cache_gib: Interval  # left for the KV cache
    kv_blocks: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    cost_usd: Interval  # whole machines from their start to their end
    finish_s: Interval  # from now to the last answer
    on_time: float  # probability
    output_tokens_per_s: Interval  # of all engines together, while batches are full
    running_sequences: float  # of one engine, on average
    memory: MemoryUse
    stratum: str  # whose left-out measurements the bounds are drawn from
    simulated: bool  # the scheduler was played through, not only its steady state computed


@dataclass(frozen=True, slots=True)
class Priced:
    plan: Plan
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Lever:
    """One thing that the plan could do otherwise."""

    name: str  # "speculation"
    taken: bool
    reason: str  # one sentence, with its figure
    cost_ratio: float | None  # the other choice's expected cost over the plan's; None: the other one cannot be


@dataclass(frozen=True, slots=True)
class Found:
    chosen: Priced | None  # None: nothing fits
    on_time: bool  # the chosen one is certain enough; else it is the likeliest to be done by the deadline
    pareto: tuple[Priced, ...]  # nothing is both cheaper and sooner done; cheapest first
    levers: tuple[Lever, ...]
    considered: int  # plans whose cost was computed
    refused: Mapping[str, int]  # engine configurations that cannot be, by reason
