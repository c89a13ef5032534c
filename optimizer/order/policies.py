"""Every order that a lane could be fed in, ours and those of others, over prompts that fit in memory."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from optimizer.order import plan
from optimizer.order.depth_first import depth_first
from optimizer.order.token_sort import row_sort
from optimizer.order.tree import BLOCK_TOKENS, Places, PrefixTree

Prompts = Sequence[Sequence[int]]
BUFFER_ROWS, LEAST_COMMON, LEAST_BUCKET_ROWS = 5000, 0.33, 16
FNV_OFFSET, FNV_PRIME = 2166136261, 16777619


def arrival(rows: int) -> Places:
    """As the file has them: what vLLM's run-batch, Ray Data and LLM.generate do."""
    return np.arange(rows)


def longest_first(output_tokens: Places) -> Places:
    """LPT: the best end, blind to prefixes (vllm-ascend's batch scheduler while its cache has room)."""
    return np.argsort(-output_tokens, kind="stable")


def system_hash(systems: Sequence[str]) -> Places:
    """By the 32-bit FNV-1a hash of a row's first system message, as llm-d's batch gateway plans a file."""
    return np.argsort([_fnv1a(system.encode()) for system in systems], kind="stable")


def bucketed(prompts: Prompts) -> Places:
    """As Daft's prefix-aware vLLM operator: buffers of 5000 rows are sorted and cut into buckets where neighbours have
    less than a third in common; the largest bucket goes first, and small ones that are neighbours are one."""
    places = [
        place
        for start in range(0, len(prompts), BUFFER_ROWS)
        for bucket in sorted(_buckets(prompts, start), key=len, reverse=True)
        for place in bucket
    ]
    return np.array(places, np.int64)


def prefix(prompts: Prompts, block_tokens: int = BLOCK_TOKENS) -> Places:
    """Prefix groups together, each where its first prompt arrived."""
    return depth_first(tree_of(prompts, block_tokens), np.zeros(len(prompts), np.int64), 1)


def prefix_longest(prompts: Prompts, output_tokens: Places, slots: int, block_tokens: int = BLOCK_TOKENS) -> Places:
    """Ours, see optimizer.order.plan."""
    return plan.prefix_longest(tree_of(prompts, block_tokens), output_tokens, slots)


def tree_of(prompts: Prompts, block_tokens: int = BLOCK_TOKENS) -> PrefixTree:
    return PrefixTree.of_columns([pa.array(prompts, pa.list_(pa.int32()))], io.BytesIO, block_tokens)


def _fnv1a(text: bytes) -> int:
    digest = FNV_OFFSET
    for byte in text:
        digest = (digest ^ byte) * FNV_PRIME & 0xFFFFFFFF
    return digest


def _buckets(prompts: Prompts, start: int) -> list[list[int]]:
    order = (start + row_sort(prompts[start : start + BUFFER_ROWS])).tolist()
    buckets = [order[:1]]
    for last, place in pairwise(order):
        common = _common(prompts[last], prompts[place]) / max(len(prompts[place]), 1)
        if common < LEAST_COMMON and len(buckets[-1]) >= LEAST_BUCKET_ROWS:
            buckets.append([])
        buckets[-1].append(place)
    return buckets


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))
