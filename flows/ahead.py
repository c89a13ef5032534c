"""What lies ahead of an engine that has just become ready, as far as the time left depends on it."""

from collections import Counter, defaultdict
from subprocess import SubprocessError

import numpy as np
import pyarrow.compute as pc

from flows.forecast import engine_of
from flows.members import Rows, pending_rows
from flows.open import Work
from flows.pace import Ahead
from flows.requests import output_tokens, requests_of
from serving.engines.measured import Measured, what_is_known
from serving.records import Lane


def ahead_of(work: Work, lane: Lane, pending: Rows, start_up_s: float) -> Ahead:
    """Later lanes are taken to run as they were forecast, or else as this one does, after a start-up like its own."""
    pending_of = {other.name: pending_rows(work, other) for other in work.job.lanes.values() if other != lane}
    others = {name: rows for name, rows in pending_of.items() if len(rows)}
    forecast = all(name in work.expected_s for name in others)
    later_s = sum(work.expected_s[name] if forecast else start_up_s for name in others)
    here = pending if forecast else np.unique(np.concatenate([pending, *others.values()]))
    slots = work.job.engine.max_num_seqs * work.job.engine.replicas
    known = _known(work, lane)
    if known is None:
        return Ahead(*_requests(work, here), later_s, slots)
    return Ahead(*_requests(work, here), later_s, slots, known.evidence, _earlier_lengths(work, known))


def _known(work: Work, lane: Lane) -> Measured | None:
    """Nothing that goes wrong here may end a run: it is for the eye alone."""
    try:
        return what_is_known(engine_of(work, lane)) if work.job.computes_here else None
    except (OSError, SubprocessError, ValueError):
        return None


def more_of(work: Work, rows: Rows) -> Ahead:
    """Rows that the engine which runs is to answer as well."""
    return Ahead(*_requests(work, rows))


def _requests(work: Work, rows: Rows) -> tuple[Counter[int], int | None]:
    """How many they are, by the most tokens that each may put out, and the tokens of their prompts."""
    by_most: Counter[int] = Counter()
    tokens: int | None = 0
    for part in requests_of(work, rows, ["row", "prompt_tokens", "sampling"]):
        for most, requests in zip(*np.unique(output_tokens(part["sampling"]), return_counts=True), strict=True):
            by_most[int(most)] += int(requests)
        counted = pc.sum(part["prompt_tokens"], skip_nulls=False, min_count=0).as_py()
        tokens = None if tokens is None or counted is None else tokens + counted
    return by_most, tokens


def _earlier_lengths(work: Work, known: Measured) -> dict[int, Counter[int]]:
    """Of answers to this input before, by the most tokens that each could have had."""
    found: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for _, most, tokens in known.lengths.get(work.facts["input"]["sha256"], ()):
        found[most][tokens] += 1
    return found
