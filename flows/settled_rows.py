"""Finished requests as rows of a segment: each with its charge, and every row that shares its answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.members import RUN, SOURCES, TAKEN, Members, Rows
from flows.names import ENDPOINTS, Few
from optimizer.cost import Charges
from serving.own_json import own_json
from serving.records import Completion, Lane, Outcome, Source
from serving.store.schemas import SEGMENT, usage_columns, usd_column

OUTCOMES = (Outcome.ANSWERED, Outcome.FAILED)


def settled_rows(lane: Lane, finished: Sequence[Completion], charges: Charges, members: Members) -> pa.RecordBatch:
    """A row of SEGMENT for each that is answered; what the run took is with the row that was run, and 0 elsewhere."""
    rows = np.array([completion.row for completion in finished], np.int64)
    failed = np.array([completion.failure is not None for completion in finished], np.bool_)
    served = members.served_by(rows)
    custom_id, endpoint = members.named(served.row)
    answered_by = rows[served.answer]
    run_here = served.row == answered_by
    of_answer = pa.array(served.answer)

    def seconds(name: str) -> pa.Array:
        each = pa.array([getattr(completion, name) for completion in finished], pa.float64())
        return pc.if_else(pa.array(run_here), each.take(of_answer), pa.scalar(None, pa.float64()))

    def failure(name: str) -> pa.Array:
        each = [None if completion.failure is None else getattr(completion.failure, name) for completion in finished]
        return pa.array(each, pa.string()).take(of_answer)

    columns = {
        "row": served.row,
        "custom_id": custom_id,
        "endpoint": _texts(ENDPOINTS, endpoint),
        "outcome": _texts(OUTCOMES, failed[served.answer].astype(np.int8)),
        "lane": pa.repeat(lane.name, len(served.row)),
        "model": pa.repeat(lane.model, len(served.row)),
        "source": _texts(SOURCES, served.source),
        "answered_by": answered_by,
        "choices": pa.array([own_json(completion.choices) for completion in finished], pa.string()).take(of_answer),
        **{name: used[served.answer] for name, used in usage_columns(finished).items()},
        **{name: seconds(name) for name in ("queue_s", "prefill_s", "decode_s")},
        "engine_s": np.where(run_here, charges.engine_s[served.answer], 0.0),
        "usd": usd_column(np.where(run_here, charges.usd_steps[served.answer], 0)),
        "error_code": failure("code"),
        "error_reason": failure("reason"),
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[name]) for name in SEGMENT.names], schema=SEGMENT)


def shared_rows(ran: pa.Table, row: Rows, answered_by: Rows, members: Members) -> pa.RecordBatch:
    """A row of SEGMENT for each near-duplicate: the answer of the row that ran for it, at no cost."""
    by_row = np.argsort(ran["row"].to_numpy())
    place = by_row[np.searchsorted(ran["row"].to_numpy()[by_row], answered_by)]
    own = _at_no_cost(row, answered_by, pa.repeat(Source.SEMANTIC.value, len(row)), members)
    return _with(own, ran.take(pa.array(place)))


def earlier_rows(taken: pa.Table, lane: Lane, members: Members) -> pa.RecordBatch:
    """A row of SEGMENT for each row of EARLIER, and for all that equal it: what it used is as it was in the run that
    answered it, at no cost."""
    return _answered_before(taken, lane, members, TAKEN)


def tried_rows(tried: pa.Table, lane: Lane, members: Members) -> pa.RecordBatch:
    """The same for each row of TRIALS; what it cost was booked when it was tried."""
    return _answered_before(tried, lane, members, RUN)


def _answered_before(answers: pa.Table, lane: Lane, members: Members, own_source: int) -> pa.RecordBatch:
    first = answers["row"].to_numpy()
    served = members.served_by(first)
    source = np.where(served.source == RUN, own_source, served.source).astype(np.int8)
    count, none = len(served.row), pa.nulls(len(served.row), pa.string())
    own = {
        **_at_no_cost(served.row, first[served.answer], _texts(SOURCES, source), members),
        "outcome": pa.repeat(Outcome.ANSWERED.value, count),
        "lane": pa.repeat(lane.name, count),
        "model": pa.repeat(lane.model, count),
        "error_code": none,
        "error_reason": none,
    }
    return _with(own, answers.take(pa.array(served.answer)))


def _at_no_cost(row: Rows, answered_by: Rows, source: pa.Array, members: Members) -> dict[str, Any]:
    """The columns that are a row's own, where another has what an engine said."""
    custom_id, endpoint = members.named(row)
    nothing = pa.nulls(len(row), pa.float64())
    return {
        "row": row,
        "custom_id": custom_id,
        "endpoint": _texts(ENDPOINTS, endpoint),
        "source": source,
        "answered_by": answered_by,
        "queue_s": nothing,
        "prefill_s": nothing,
        "decode_s": nothing,
        "engine_s": np.zeros(len(row)),
        "usd": usd_column(np.zeros(len(row), np.int64)),
    }


def _with(own: dict[str, Any], copied: pa.Table) -> pa.RecordBatch:
    columns = [pa.array(own[name]) if name in own else copied[name].combine_chunks() for name in SEGMENT.names]
    return pa.RecordBatch.from_arrays(columns, schema=SEGMENT)


def _texts(values: Sequence[str], places: Few | NDArray[np.int8]) -> pa.Array:
    return pa.array([str(value) for value in values], pa.string()).take(pa.array(places))
