"""Row sort: prompts in the order of their tokens, compared from the first on."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Places = NDArray[np.int64]


def row_sort(prompts: pa.ListArray | pa.ChunkedArray | Sequence[Sequence[int] | None]) -> Places:
    """The places of `prompts` (token ids each) in the order of their tokens; equal ones keep their order.

    What a table that is sorted before it is fed gets, at best: all that share a beginning stand together, however long
    their answers are. Prompts without tokens come last.

    It takes 4 bytes a token and some 60 a prompt: a million prompts are no million Python lists.
    """
    if not isinstance(prompts, pa.ListArray | pa.ChunkedArray):
        prompts = pa.array(prompts, pa.list_(pa.int32()))
    known = pc.is_valid(prompts).to_numpy(zero_copy_only=False)
    places: Places = np.flatnonzero(known)
    _sort_by_tokens(places, *_flat(prompts))
    return np.concatenate([places, np.flatnonzero(~known)])


def _flat(prompts: pa.ListArray | pa.ChunkedArray) -> tuple[NDArray[np.int32], Places]:
    """All tokens in a row, and where those of each prompt begin; one more begins where the last one ends."""
    chunks = prompts.chunks if isinstance(prompts, pa.ChunkedArray) else [prompts]
    begins = np.zeros(len(prompts) + 1, np.int64)
    np.cumsum(pc.fill_null(pc.list_value_length(prompts), 0).to_numpy(), out=begins[1:])
    flat = [chunk.flatten().to_numpy() for chunk in chunks] or [np.empty(0, np.int32)]
    return flat[0] if len(flat) == 1 else np.concatenate(flat), begins


def _sort_by_tokens(places: Places, tokens: NDArray[np.int32], begins: Places) -> None:
    """Sort `places` in place, two tokens deeper at each step, looking only at prompts that are still equal to another.

    `family` numbers the prompts that are equal so far by the position of their first. The sorts are stable, so that
    equal prompts keep their order.
    """
    tied: Places = np.arange(len(places) if len(places) > 1 else 0)  # positions in `places`, ascending
    family: Places = np.zeros(len(tied), np.int64)
    depth = 0
    while len(tied):
        members = places[tied]
        keys = _two_tokens(tokens, begins[members] + depth, begins[members + 1])
        by_key = np.lexsort((keys, family))
        places[tied], keys = members[by_key], keys[by_key]
        # `family` is ascending, and sorting within families leaves it as it is.
        first = np.r_[True, (family[1:] != family[:-1]) | (keys[1:] != keys[:-1])]
        family = np.maximum.accumulate(np.where(first, tied, 0))
        alone = first & np.r_[first[1:], True]
        ended = keys & np.uint64(0xFFFFFFFF) == 0  # equal to the end: nothing is left to compare
        still = ~(alone | ended)
        tied, family = tied[still], family[still]
        depth += 2


def _two_tokens(tokens: NDArray[np.int32], at: Places, end: Places) -> NDArray[np.uint64]:
    """The tokens at `at` and after it as one number that sorts as they do; past the end of a prompt stands 0."""
    keys = np.zeros(len(at), np.uint64)
    for step in (0, 1):
        inside = at + step < end
        keys[inside] |= (tokens[at[inside] + step].astype(np.uint64) + 1) << np.uint64(32 * (1 - step))
    return keys
