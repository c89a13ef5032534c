"""`gristmill costs`: a question to the ledger, answered as a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from flows.price_list import listed_prices
from flows.terminal import in_columns, printable
from serving.store.ledger import Answer, BadQuery, ask, named_queries, open_ledger, write_ledger
from serving.store.sealed import Corrupt

MAX_CELL_CHARACTERS = 160
STARTS_OF_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def costs(runs: Path, name: str | None, sql: str | None, form: str, warn: Callable[[str], None] | None = None) -> str:
    """The answer to a named query, or to a SELECT; without either the list of the named queries.

    Raises:
        Corrupt: a run is damaged, so that no figure over all runs would be true. With `warn`, which then hears of it,
            the figures are those of the other runs.
    """
    if name is not None and sql is not None:
        raise BadQuery("give a name or --sql, not both")
    if name is None and sql is None:
        queries = named_queries().values()
        return _formed(Answer(["name", "question"], [(query.name, query.question) for query in queries]), form)
    statement = sql if sql is not None else _named(name or "")
    prices = listed_prices()
    if runs.is_dir():
        write_ledger(runs, prices)
    with open_ledger(runs, commented="comment" in statement, prices=prices) as ledger:
        for run_id, reason in ask(ledger, "SELECT run_id, reason FROM unreadable").rows:
            if warn is None:
                raise Corrupt(f"{reason}; move that run away, or leave it out with --leave-out-damaged")
            warn(f"run {run_id} is left out: {reason}")
        return _formed(ask(ledger, statement), form)


def _named(name: str) -> str:
    known = named_queries()
    if name not in known:
        raise BadQuery(f"no query is named {name!r}; known: {', '.join(known)}")
    return known[name].sql


def _formed(answer: Answer, form: str) -> str:
    if form == "json":
        if twice := next((name for name in answer.columns if answer.columns.count(name) > 1), None):
            raise BadQuery(f"two columns are named {twice!r}; name them apart with AS")
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        return json.dumps(rows, indent=1, default=str)
    if form == "csv":
        sheet = io.StringIO()
        csv.writer(sheet, lineterminator="\n").writerows([answer.columns, *(map(_cell, row) for row in answer.rows)])
        return sheet.getvalue().rstrip("\n")
    return in_table(answer)


def in_table(answer: Answer) -> str:
    """Plain columns, numbers to the right, so that it reads the same in a terminal, a log and a mail."""
    rows = [answer.columns, *([_shown(value) for value in row] for row in answer.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(answer.columns))]
    numeric = [
        any(row[column] is not None for row in answer.rows)
        and all(row[column] is None or _is_number(row[column]) for row in answer.rows)
        for column in range(len(answer.columns))
    ]
    heading, *lines = in_columns(rows, numeric)
    return "\n".join([heading, "  ".join("-" * width for width in widths), *lines])


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, str)


def _shown(value: object) -> str:
    text = "" if value is None else printable(str(value))
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 3] + "..."


def _cell(value: object) -> object:
    """A spreadsheet runs a cell that begins like a formula; an apostrophe keeps it text."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.lstrip().startswith(STARTS_OF_A_FORMULA) else text
