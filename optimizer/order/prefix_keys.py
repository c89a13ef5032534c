"""A prompt as a key of 8 bytes a block: two keys begin alike exactly as far as an engine could share blocks."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from optimizer.order.ragged import counting

Hashes = NDArray[np.uint64]
WORD_BYTES = 8
SLICE_TOKENS = 2**20  # hashed at a time, in some 40 bytes a token
WHOLE = np.uint64(0xD1B54A32D192ED03)  # sets the hash of a whole prompt apart from that of its last block


def prefix_keys(prompts: pa.ListArray, block_tokens: int) -> Iterator[bytes]:
    """The hash of each full block and all before it, as vLLM chains them, then that of the whole prompt.

    A prompt without tokens known has the empty key. Hashes are of 64 bits and not cryptographic: prompts that are
    made to collide are fed in a worse order, and that is all.
    """
    ends = np.cumsum(pc.fill_null(pc.list_value_length(prompts), 0).to_numpy())
    start = 0
    while start < len(prompts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + SLICE_TOKENS, side="right")))
        yield from _keys(prompts.slice(start, stop - start), block_tokens)
        start = stop


def _keys(prompts: pa.ListArray, block_tokens: int) -> Iterator[bytes]:
    known = pc.is_valid(prompts).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(prompts), 0).to_numpy().astype(np.int64)
    tokens = prompts.flatten().to_numpy().astype(np.uint64) + np.uint64(1)
    begins = np.cumsum(lengths) - lengths
    # Multilinear hashing: a sum of tokens weighed by their place, so that one running sum gives every prefix's hash.
    weights = _mixed(np.arange(lengths.max(initial=0), dtype=np.uint64)) | np.uint64(1)
    sums = np.zeros(len(tokens) + 1, np.uint64)
    np.cumsum(tokens * weights[counting(lengths)], out=sums[1:])
    words = np.where(known, lengths // block_tokens + 1, 0)
    blocks = counting(words) + 1
    whole = blocks == np.repeat(words, words)
    begin = np.repeat(begins, words)
    end = begin + np.where(whole, np.repeat(lengths, words), blocks * block_tokens)
    hashes = sums[end] - sums[begin]
    hashes[whole] ^= WHOLE
    text = _mixed(hashes).tobytes()
    stop = 0
    for size in (words * WORD_BYTES).tolist():
        yield text[stop : stop + size]
        stop += size


def _mixed(values: Hashes) -> Hashes:
    """The finalizer of SplitMix64: every bit of the value moves every bit of the result."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
