"""A run's answers and errors in the form of OpenAI Batch output, in the order of the input."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from serving.own_json import own_json
from serving.records import Choice, Endpoint
from serving.store.durable import make_folder, write_blocks
from serving.store.run import Run, UnknownRun
from serving.store.schemas import choices_from

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
    write_blocks(results, (_lines(_result(run.run_id, created_unix_s, *row) for row in block) for block in answered))
    write_blocks(errors, (_lines(_error(run.run_id, *row) for row in block) for block in failed))
    return results, errors


def _blocks(ledger: "duckdb.DuckDBPyConnection", sql: str, run_id: str, rows_in: int) -> Iterator[Iterator[Any]]:
    """What `sql` finds in the order of the input, some rows at a time."""
    window = f"SELECT * FROM ({sql}) WHERE row >= $start AND row < $start + {WINDOW_ROWS} ORDER BY row"
    for start in range(0, rows_in, WINDOW_ROWS):
        found: pa.RecordBatchReader = ledger.sql(window, params={"run": run_id, "start": start}).to_arrow_reader(
            FETCHED_ROWS
        )
        for batch in found:
            yield zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _lines(values: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(own_json(value) + b"\n" for value in values)


def _result(run_id: str, created_unix_s: int, row: int, custom_id: str, *answer: Any) -> dict[str, Any]:
    name = f"{run_id}-{row}"
    response = {"status_code": 200, "request_id": name, "body": _body(name, created_unix_s, *answer)}
    return {"id": name, "custom_id": custom_id, "response": response, "error": None}


def _body(
    name: str,
    created_unix_s: int,
    endpoint: str,
    choices: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    lane: str,
    source: str,
    answered_by: int,
    usd: Decimal,
) -> dict[str, Any]:
    chat = endpoint == Endpoint.CHAT
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{name}",
        "object": "chat.completion" if chat else "text_completion",
        "created": created_unix_s,
        "model": model,
        "choices": [_choice(place, choice, chat) for place, choice in enumerate(choices_from(choices))],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        },
        # Ours, beside the standard fields: where the answer came from and what it cost.
        "gristmill": {"lane": lane, "source": source, "answered_by_row": answered_by, "usd": str(usd)},
    }


def _choice(place: int, choice: Choice, chat: bool) -> dict[str, Any]:
    tokens = choice.logprobs
    if chat:
        logprobs: Any = None if tokens is None else {"content": tokens}
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"index": place, "finish_reason": choice.finish_reason, "message": message, "logprobs": logprobs}
    logprobs = None if tokens is None else _side_by_side(tokens)
    return {"index": place, "finish_reason": choice.finish_reason, "text": choice.text, "logprobs": logprobs}


def _side_by_side(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """The completions endpoint lists tokens and numbers in lists of their own."""
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
    }


def _error(
    run_id: str, row: int, custom_id: str | None, file: str, line: int, code: str, reason: str
) -> dict[str, Any]:
    error = {"code": code, "message": reason, "file": file, "line": line}
    return {"id": f"{run_id}-{row}", "custom_id": custom_id, "response": None, "error": error}
