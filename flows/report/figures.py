"""The figures of a run's page, each one query to the ledger."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.limits import StopReason
from flows.receipt import Receipt, take_receipt
from flows.report.roofline import RAN, Roofline, roofline_of
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.run import Run

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]

# How fast each lane was, and how full, from one segment of its journal to the next, in the order they were sealed in.
PACE = """
SELECT segments.lane, segments.epoch, segments.number, any_value(seconds) AS seconds,
       sum(prompt_tokens - cached_tokens) AS prefilled, sum(completion_tokens) AS generated,
       sum(cached_tokens) / sum(prompt_tokens) AS found_share, any_value(running) AS running,
       any_value(kv_share) AS kv_share
FROM settled JOIN segments ON settled.run_id = segments.run_id AND file_of_part = segments.file
WHERE settled.run_id = $run AND source = 'engine' AND seconds > 0
GROUP BY ALL ORDER BY any_value(sealed_unix_s), segments.epoch, segments.number
"""
# Half an octave a bin; `most` is where it ends.
LENGTHS = """
WITH lengths AS (
    SELECT 'prompt' AS of, prompt_tokens AS tokens FROM rows WHERE run_id = $run AND prompt_tokens > 0
    UNION ALL
    SELECT 'answer', completion_tokens FROM rows WHERE run_id = $run AND completion_tokens > 0
)
SELECT of, floor(2 * log2(tokens))::INTEGER AS bin, count(*) AS rows FROM lengths GROUP BY ALL ORDER BY ALL
"""
PREDICTED = """
SELECT made, coalesce(lane, 'all') AS lane, factor, predicted, low_90, high_90, measured, off, within
FROM reconciled WHERE run_id = $run ORDER BY made, lane, factor
"""
SPECULATION = """
SELECT lane, sum(drafted_tokens) AS drafted, sum(accepted_tokens) AS accepted, sum(completion_tokens) AS generated
FROM rows WHERE run_id = $run AND source = 'engine' GROUP BY lane HAVING sum(drafted_tokens) > 0 ORDER BY lane
"""
REFUSED = """
SELECT code, count(*) AS rows, min(file || ':' || line) AS first, min_by(reason, row) AS reason
FROM refusals WHERE run_id = $run GROUP BY code ORDER BY rows DESC, code LIMIT 8
"""
FAILED = """
SELECT error_code AS code, count(*) AS rows, min_by(custom_id, row) AS first, min_by(error_reason, row) AS reason
FROM rows WHERE run_id = $run AND outcome = 'failed' GROUP BY error_code ORDER BY rows DESC, code LIMIT 8
"""
CUT_OFF = """
SELECT count(*) FILTER (choices LIKE '%"finish_reason":"length"%') AS cut_off, count(*) AS answered
FROM rows WHERE run_id = $run AND outcome = 'answered' AND source = 'engine'
"""
UNSHARED = """
SELECT count(*) AS rows, coalesce(sum(usd), 0) AS usd
FROM (SELECT usd, row_number() OVER (PARTITION BY key ORDER BY rows.row) AS place
      FROM rows JOIN requests USING (run_id, row)
      WHERE rows.run_id = $run AND source = 'engine'
            AND (json_extract(sampling, '$.temperature')::DOUBLE = 0
                 OR json_extract_string(sampling, '$.seed') IS NOT NULL))
WHERE place > 1
"""


@dataclass(frozen=True, slots=True)
class Figures:
    receipt: Receipt
    facts: Row  # run.json
    pace: list[Row]
    lengths: list[Row]
    predicted: list[Row]
    speculation: list[Row]
    certificates: list[Row]
    refused: list[Row]
    failed: list[Row]
    cut_off: Row
    roofline: Roofline | None
    unshared: Row  # rows that equal another one, and were run all the same


def figures_of(run: Run) -> Figures:
    receipt = take_receipt(run, StopReason.NONE)
    with open_ledger(run.folder.parent, only=run) as ledger:
        return Figures(
            receipt=receipt,
            facts=run.facts,
            pace=_rows(ledger, PACE, run),
            lengths=_rows(ledger, LENGTHS, run),
            predicted=_rows(ledger, PREDICTED, run),
            speculation=_rows(ledger, SPECULATION, run),
            certificates=_rows(ledger, named_queries()["certificate"].sql),
            refused=_rows(ledger, REFUSED, run),
            failed=_rows(ledger, FAILED, run),
            cut_off=_rows(ledger, CUT_OFF, run)[0],
            roofline=roofline_of(run.facts, _rows(ledger, RAN, run)),
            unshared=_rows(ledger, UNSHARED, run)[0],
        )


def settings_of(figures: Figures) -> str:
    """What the job file said, and what it left at its default."""
    return json.dumps(figures.facts["job"], indent=1, ensure_ascii=False)


def _rows(ledger: "duckdb.DuckDBPyConnection", sql: str, run: Run | None = None) -> list[Row]:
    found = ask(ledger, sql, **({} if run is None else {"run": run.run_id}))
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]
