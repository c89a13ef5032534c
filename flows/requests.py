"""The requests of a lane as tables: which there are, what they can use at most, and in which order they are fed."""

from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.feed_order import finished_lengths, in_order
from flows.members import Rows, among
from flows.open import Work
from serving.records import sampling_from_json
from serving.store.tables import read_table

BLOCK_SLACK_TOKENS = 128  # the largest block that an engine may only half fill, for each sequence


def requests_of(work: Work, pending: Rows, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The requests of these rows, which ascend, a part of them at a time. Parts that have none of them are not read."""
    files = work.run.stage(work.run.admitted).files("requests")
    if not len(pending):
        return
    first = bisect_left(files, pending[0], key=lambda file: _rows_in(file)[-1])
    for file in files[first:]:
        rows = _rows_in(file)
        if rows[0] > pending[-1]:
            return
        if (some := among(rows, pending)).any():
            yield read_table(file, columns).filter(pa.array(some))


def _rows_in(part: Path) -> Rows:
    rows: Rows = read_table(part, ["row"])["row"].to_numpy()
    return rows


def kv_tokens_of(work: Work, pending: Rows, slots: int | None = None) -> int | None:
    """The tokens that a KV cache has a use for: all that can run at once at full length, and every prompt once."""
    at_once = slots or work.job.engine.max_num_seqs
    prompt_tokens = 0
    longest = np.empty(0, np.int64)
    for part in requests_of(work, pending, ["row", "prompt_tokens", "sampling"]):
        if part["prompt_tokens"].null_count:
            return None
        prompts = part["prompt_tokens"].to_numpy().astype(np.int64)
        prompt_tokens += int(prompts.sum())
        longest = np.sort(np.concatenate([longest, prompts + output_tokens(part["sampling"])]))[-at_once:]
    return int(longest.sum()) + prompt_tokens + BLOCK_SLACK_TOKENS * len(longest)


def output_tokens(samplings: pa.ChunkedArray) -> Rows:
    """The most that each may put out, in all its answers."""
    most, answers = answers_of(samplings)
    of_all: Rows = most * answers
    return of_all


def answers_of(samplings: pa.ChunkedArray) -> tuple[Rows, Rows]:
    """Of each, the most tokens of an answer, and how many answers. A job has few samplings, and each is read once."""
    few = samplings.combine_chunks().dictionary_encode()
    each = [sampling_from_json(text) for text in few.dictionary.to_pylist()]
    places = few.indices.to_numpy()
    most, answers = ([getattr(sampling, name) for sampling in each] for name in ("max_tokens", "n"))
    return np.array(most, np.int64)[places], np.array(answers, np.int64)[places]


def tables_to_order(work: Work, pending: Rows, columns: list[str]) -> Iterator[pa.Table]:
    """The requests in the order that they are fed in, a few in each table."""
    read = partial(requests_of, work)
    slots = work.job.engine.max_num_seqs
    return in_order(read, pending, partial(finished_lengths, work), output_tokens, slots, columns, work.run.folder)
