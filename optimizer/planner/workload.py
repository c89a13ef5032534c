"""What an engine is asked, and the cache it has: arrays with one element a request, in the order they are fed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
NO_GROUP = -1


@dataclass(frozen=True, slots=True)
class Requests:
    """Two requests of one prefix group have in common as many of their first tokens as the lesser of the two shares."""

    prompt_tokens: Counts
    output_tokens: Counts
    prefix_group: Counts | None = None  # NO_GROUP: shares nothing
    shared_tokens: Counts | None = None  # of the prompt, its first

    def __post_init__(self) -> None:
        if (self.prefix_group is None) != (self.shared_tokens is None):
            raise ValueError("prefix_group and shared_tokens belong together")
        columns = [self.prompt_tokens, self.output_tokens, self.prefix_group, self.shared_tokens]
        if len({len(column) for column in columns if column is not None}) > 1:
            raise ValueError("the arrays of requests differ in length")
        if len(self) and min(int(self.prompt_tokens.min()), int(self.output_tokens.min())) < 1:
            raise ValueError("a request has at least one prompt token and one output token")
        if self.shared_tokens is not None and np.any(self.shared_tokens > self.prompt_tokens):
            raise ValueError("a request shares more tokens than its prompt has")

    def __len__(self) -> int:
        return len(self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class KvBlocks:
    """The KV cache of one engine. vLLM never hands out one of the blocks that it logs at its start."""

    blocks: int
    block_tokens: int = 16
    prefix_caching: bool = True
