"""A run's answers and errors in the form of OpenAI Batch output, in the order of the input."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec import Struct

from serving.own_json import own_json
from serving.store.batch_output import refused, result
from serving.store.durable import make_folder, write_blocks
from serving.store.run import Run, UnknownRun
from serving.store.stretches import Stretches

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
"""
EXPIRED = """
UNION ALL
SELECT row, custom_id, file, line, 'batch_expired', 'the run stopped before this row; run the job again to resume it'
FROM requests ANTI JOIN rows USING (run_id, row) WHERE run_id = $run
"""
MARKS = "row(count(*), bit_xor(hash(row)))"  # of rows that are each there once, in one pass and no memory
SETTLED = f"""
SELECT (SELECT {MARKS} FROM requests WHERE run_id = $run) IS NOT DISTINCT FROM
    (SELECT {MARKS} FROM rows WHERE run_id = $run)
"""
OPEN = "SELECT count(*) FROM requests ANTI JOIN rows USING (run_id, row) WHERE run_id = $run"
WINDOW_ROWS, MOST_WINDOWS = 16_384, 1024  # input rows whose lines are sorted in memory, and how many such there may be
READ_ROWS = 16_384
WRITTEN_ROWS = 1024


def export(run: Run, ledger: "duckdb.DuckDBPyConnection") -> tuple[Path, Path]:
    """Write results.jsonl and errors.jsonl; the same rows always give the same bytes."""
    found = ledger.execute("SELECT created_unix_s, rows_in FROM runs WHERE run_id = ?", [run.run_id]).fetchall()
    if not found:
        raise UnknownRun(f"{run.folder}: this run is not in the ledger; run `gristmill verify {run.run_id}`")
    created_unix_s, rows_in = int(found[0][0]), found[0][1] or 0
    make_folder(run.export)
    results, errors = run.export / "results.jsonl", run.export / "errors.jsonl"
    unanswered = ERRORS + (EXPIRED if open_rows(run, ledger) else "")  # to find none takes a join of all rows
    answered, failed = (_blocks(ledger, sql, run, rows_in) for sql in (ANSWERS, unanswered))
    write_blocks(results, (_lines(result(run.run_id, created_unix_s, *row) for row in block) for block in answered))
    write_blocks(errors, (_lines(refused(run.run_id, *row) for row in block) for block in failed))
    return results, errors


def open_rows(run: Run, ledger: "duckdb.DuckDBPyConnection") -> int:
    """Requests that have neither an answer nor a failure; they are looked for one by one where there may be some."""
    ((settled,),) = ledger.execute(SETTLED, {"run": run.run_id}).fetchall()
    if settled:
        return 0
    ((count,),) = ledger.execute(OPEN, {"run": run.run_id}).fetchall()
    return int(count)


def _blocks(ledger: "duckdb.DuckDBPyConnection", sql: str, run: Run, rows_in: int) -> Iterator[Iterator[Any]]:
    """What `sql` finds in the order of the input, some rows at a time. It is asked once and laid out by windows of the
    input: each file of the run is read once, however many windows there are, and DuckDB sorts nothing."""
    window_rows = max(WINDOW_ROWS, -(-rows_in // MOST_WINDOWS))
    found: pa.RecordBatchReader = ledger.sql(sql, params={"run": run.run_id}).to_arrow_reader(READ_ROWS)
    with TemporaryFile(dir=run.export) as file:
        windows = Stretches(file)
        for batch in found:
            windows.add(pa.Table.from_batches([batch]), batch["row"].to_numpy() // window_rows)
        for window in range(-(-rows_in // window_rows)):
            if (rows := windows.read(window)) is not None:
                for batch in rows.sort_by("row").to_batches(WRITTEN_ROWS):
                    yield zip(*_columns(batch), strict=True)


def _columns(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """Money as text: a decimal for each row takes longer than all the rest of it."""
    for column in batch.columns:
        yield (column.cast(pa.string()) if pa.types.is_decimal(column.type) else column).to_pylist()


def _lines(values: Iterator[Struct]) -> bytes:
    return b"".join(own_json(value) + b"\n" for value in values)
