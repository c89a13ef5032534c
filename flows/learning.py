"""After an engine has run: what it took is kept for the next forecast, and the last forecast is held against it."""

import math
from dataclasses import dataclass

import numpy as np

from flows.feed_order import finished_lengths
from flows.forecast import engine_of
from flows.members import Rows
from flows.open import Work
from flows.requests import answers_of, requests_of
from serving.engines.measured import MAX_LENGTHS, Length, Measured, learn, note_miss
from serving.records import Lane, StepEvidence
from serving.store.predictions import read_prediction

LEAST_STEPS = 16  # that a fit can rest on


@dataclass(frozen=True, slots=True)
class Ran:
    """One engine, from its start to its end."""

    evidence: StepEvidence | None
    start_up_s: float
    forked: bool  # from a process that had imported vLLM
    ran_s: float  # since it was ready
    rows: Rows  # that it was to answer


def learned(work: Work, ran: Ran) -> Measured | None:
    """None where an engine shows too little of its steps."""
    if ran.evidence is None or ran.evidence.steps < LEAST_STEPS:
        return None
    first, following = (None, ran.start_up_s) if ran.forked else (ran.start_up_s, None)
    lengths = {work.facts["input"]["sha256"]: _lengths(work, ran.rows)}
    return Measured(ran.evidence, ran.ran_s, first, following, lengths)


def keep(work: Work, lane: Lane, ran: Ran) -> None:
    """A run never fails of what it could not keep for the next one."""
    try:
        _keep(work, lane, ran)
    except OSError as fault:
        work.progress.say(f"{lane.name}: what it took is not kept for the next forecast: {fault}")


def _keep(work: Work, lane: Lane, ran: Ran) -> None:
    if (found := learned(work, ran)) is None:
        return
    engine = engine_of(work, lane)
    learn(engine, found)
    tokens = found.evidence.totals[1] + found.evidence.totals[3]
    if (expected := _expected_s_per_token(work, lane)) and tokens:
        note_miss(engine, math.log(found.ran_s / tokens / expected))


def _expected_s_per_token(work: Work, lane: Lane) -> float | None:
    told = read_prediction(work.run, "plan")
    of_lane = [one for one in told["lanes"] if one["lane"] == lane.name] if told else []
    return of_lane[0]["s_per_token"]["value"] if of_lane else None


def _lengths(work: Work, rows: Rows) -> tuple[Length, ...]:
    """Of answered rows of this engine, as many as are kept; drawn at random, but always the same."""
    finished = finished_lengths(work)
    here = np.isin(finished.row, rows)
    row, tokens = finished.row[here], finished.output_tokens[here]
    if len(row) > MAX_LENGTHS:
        chosen = np.random.default_rng(0).choice(len(row), MAX_LENGTHS, replace=False)
        row, tokens = row[chosen], tokens[chosen]
    of_row = dict(zip(row.tolist(), tokens.tolist(), strict=True))
    found: list[Length] = []
    for part in requests_of(work, np.sort(row), ["row", "prompt_tokens", "sampling"]):
        most, answers = (column.tolist() for column in answers_of(part["sampling"]))
        columns = (part["row"].to_pylist(), part["prompt_tokens"].to_pylist(), most, answers)
        found += [(prompt, each, of_row[number] // times) for number, prompt, each, times in zip(*columns, strict=True)]
    return tuple(found)
