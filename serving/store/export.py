"""A run's answers and errors in the form of OpenAI Batch output, in the order of the input."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec import Struct

from serving.own_json import own_json
from serving.store.batch_output import refused, result
from serving.store.durable import make_folder, write_blocks
from serving.store.run import Run, UnknownRun

if TYPE_CHECKING:
    import duckdb

ANSWERS = """
SELECT row, custom_id, endpoint, choices, model, prompt_tokens, completion_tokens, cached_tokens, lane, source,
       answered_by, usd
FROM rows WHERE run_id = $run AND outcome = 'answered'
"""
ERRORS = """
SELECT row, custom_id, file, line, code, reason FROM refusals WHERE run_id = $run
UNION ALL
SELECT rows.row, rows.custom_id, requests.file, requests.line, error_code, error_reason
FROM rows JOIN requests ON requests.run_id = rows.run_id AND requests.row = rows.row
WHERE rows.run_id = $run AND outcome = 'failed'
UNION ALL
SELECT row, custom_id, file, line, 'batch_expired', 'the run stopped before this row; run the job again to resume it'
FROM requests ANTI JOIN rows USING (run_id, row) WHERE run_id = $run
"""
# Sorted so many input rows at a time: DuckDB holds what it sorts, and a million answers are more than it may hold.
WINDOW_ROWS = 131_072
FETCHED_ROWS = 1024


def export(run: Run, ledger: "duckdb.DuckDBPyConnection") -> tuple[Path, Path]:
    """Write results.jsonl and errors.jsonl; the same rows always give the same bytes."""
    found = ledger.execute("SELECT created_unix_s, rows_in FROM runs WHERE run_id = ?", [run.run_id]).fetchall()
    if not found:
        raise UnknownRun(f"{run.folder}: this run is not in the ledger; run `gristmill verify {run.run_id}`")
    created_unix_s, rows_in = int(found[0][0]), found[0][1] or 0
    make_folder(run.export)
    results, errors = run.export / "results.jsonl", run.export / "errors.jsonl"
    answered, failed = (_blocks(ledger, sql, run.run_id, rows_in) for sql in (ANSWERS, ERRORS))
    write_blocks(results, (_lines(result(run.run_id, created_unix_s, *row) for row in block) for block in answered))
    write_blocks(errors, (_lines(refused(run.run_id, *row) for row in block) for block in failed))
    return results, errors


def _blocks(ledger: "duckdb.DuckDBPyConnection", sql: str, run_id: str, rows_in: int) -> Iterator[Iterator[Any]]:
    """What `sql` finds in the order of the input, some rows at a time."""
    window = f"SELECT * FROM ({sql}) WHERE row >= $start AND row < $start + {WINDOW_ROWS} ORDER BY row"
    for start in range(0, rows_in, WINDOW_ROWS):
        found: pa.RecordBatchReader = ledger.sql(window, params={"run": run_id, "start": start}).to_arrow_reader(
            FETCHED_ROWS
        )
        for batch in found:
            yield zip(*_columns(batch), strict=True)


def _columns(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """Money as text: a decimal for each row takes longer than all the rest of it."""
    for column in batch.columns:
        yield (column.cast(pa.string()) if pa.types.is_decimal(column.type) else column).to_pylist()


def _lines(values: Iterator[Struct]) -> bytes:
    return b"".join(own_json(value) + b"\n" for value in values)
