"""The ledger: DuckDB views over the sealed files of all runs. The only importer of duckdb.

Nothing lives here alone: the file can be deleted at any time and is made again from the run folders. It reads the exact
list of files that manifests name, never a glob, so a half-written file can neither break nor falsify a figure.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from serving.store.durable import sync_folder
from serving.store.parts import Corrupt, read_manifest
from serving.store.run import Run, all_runs
from serving.store.schemas import MEMBERS, PAIRS, REFUSED, REQUESTS, ROUTES, SEGMENT
from serving.store.segments import read_segments

if TYPE_CHECKING:
    import duckdb

FILE = "ledger.duckdb"
RUNS = """CREATE TABLE runs (run_id VARCHAR, tenant VARCHAR, dataset VARCHAR, created_unix_s DOUBLE, engine VARCHAR,
    full_model VARCHAR, quantized_model VARCHAR, rows_in BIGINT, refused BIGINT, price_source VARCHAR,
    price_as_of VARCHAR, usd_per_hour DECIMAL(24, 12), input_usd_per_mtok DECIMAL(24, 12),
    output_usd_per_mtok DECIMAL(24, 12))"""
OVERHEADS = """CREATE TABLE overheads (run_id VARCHAR, kind VARCHAR, lane VARCHAR, seconds DOUBLE,
    usd DECIMAL(24, 12))"""
SEGMENTS = """CREATE TABLE segments (run_id VARCHAR, file VARCHAR, epoch INTEGER, sealed_unix_s DOUBLE, lane VARCHAR,
    rows BIGINT, seconds DOUBLE, prefill_s_per_token DOUBLE, decode_s_per_token DOUBLE)"""
UNREADABLE = "CREATE TABLE unreadable (run_id VARCHAR, reason VARCHAR)"
VIEW_SCHEMAS = {"requests": REQUESTS, "refusals": REFUSED, "pairs": PAIRS, "members": MEMBERS, "routes": ROUTES}


class BadQuery(ValueError):
    """A query that is not known, or that DuckDB refused."""


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    question: str  # what it answers, the file's first line
    sql: str


@dataclass(frozen=True, slots=True)
class Answer:
    columns: list[str]
    rows: list[tuple[Any, ...]]


def open_ledger(runs: Path) -> "duckdb.DuckDBPyConnection":
    """All views, in memory: no lock, so it can be read while a run goes on. It reads below `runs`, nowhere else."""
    import duckdb

    ledger = duckdb.connect(":memory:")
    _fill(ledger, runs)
    # The order matters: once external access is off, no folder can be added.
    ledger.execute("SET allowed_directories = $folders", {"folders": [str(runs.resolve()) + "/"]})
    for setting in ("enable_external_access = false", "lock_configuration = true"):
        ledger.execute(f"SET {setting}")
    return ledger


def write_ledger(runs: Path) -> Path:
    """The same views as a file that any DuckDB client can open; made anew only where the runs have changed."""
    import duckdb

    file, aside = runs / FILE, runs / f".{FILE}.{os.getpid()}.writing"
    state = _state(runs)
    if file.exists() and _state_of(file) == state:
        return file
    aside.unlink(missing_ok=True)
    with duckdb.connect(str(aside)) as ledger:
        _fill(ledger, runs)
        ledger.execute("CREATE TABLE ledger_state AS SELECT $state AS state", {"state": state})
    aside.replace(file)
    sync_folder(runs)
    return file


def ask(ledger: "duckdb.DuckDBPyConnection", sql: str, **values: Any) -> Answer:
    """One read-only statement. Values are bound, never written into the text."""
    import duckdb

    try:
        statements = ledger.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise BadQuery("a query is one SELECT statement; the ledger is for reading")
        found = ledger.execute(sql, values or None)
        return Answer([column[0] for column in found.description or []], found.fetchall())
    except duckdb.Error as error:
        raise BadQuery(f"DuckDB: {' '.join(str(error).split())}") from None


def named_queries() -> dict[str, NamedQuery]:
    """The queries kept as .sql files, by name."""
    folder = files("serving.store").joinpath("queries")
    found = [
        _named(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    return {query.name: query for query in sorted(found, key=lambda query: query.name)}


def _named(name: str, sql: str) -> NamedQuery:
    return NamedQuery(name, sql.splitlines()[0].removeprefix("--").strip(), sql)


def _fill(ledger: "duckdb.DuckDBPyConnection", runs: Path) -> None:
    for statement in (RUNS, OVERHEADS, SEGMENTS, UNREADABLE):
        ledger.execute(statement)
    known = all_runs(runs) if runs.exists() else []
    parts: dict[str, list[tuple[str, str]]] = {view: [] for view in VIEW_SCHEMAS}
    for run in known:
        try:
            found = list(_part_files(run))
            _add_run(ledger, run)
            for view, file in found:
                parts[view].append((run.run_id, file))
        except Corrupt as fault:  # one damaged run must not hide the others; `gristmill verify` is loud about it
            _drop_run(ledger, run)
            ledger.execute("INSERT INTO unreadable VALUES (?, ?)", (run.run_id, str(fault)))
    for view, schema in VIEW_SCHEMAS.items():
        _make_view(ledger, view, schema, parts[view])
    listed = ledger.execute("SELECT run_id, file FROM segments").fetchall()
    _make_view(ledger, "settled", SEGMENT, listed)
    ledger.execute(files("serving.store").joinpath("views.sql").read_text(encoding="utf-8"))


def _add_run(ledger: "duckdb.DuckDBPyConnection", run: Run) -> None:
    facts = run.facts
    job, price = facts["job"], facts["price"]
    admitted = read_manifest(run.admitted)
    figures = admitted.figures if admitted else {"rows": None}
    models = (job["model"]["full"], job["model"]["quantized"])
    row = (
        run.run_id, job["tenant"]["name"], job["dataset"]["path"], facts["created_unix_s"], job["engine"]["kind"],
        *models, figures["rows"], admitted.rows("refusals") if admitted else None, price["source"], price["as_of"],
        price["usd_per_hour"], price["input_usd_per_mtok"], price["output_usd_per_mtok"],
    )  # fmt: skip
    ledger.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(row))})", row)
    for line in _overheads(run):
        ledger.execute("INSERT INTO overheads VALUES (?, ?, ?, ?, ?)", (run.run_id, *line.values()))
    for segment in read_segments(run.segments):
        figure = segment.facts
        if not segment.table.exists():
            raise Corrupt(f"{segment.table}: missing; its manifest lists {figure['rows']} rows")
        place = (run.run_id, str(segment.table.resolve()), segment.epoch, figure["sealed_unix_s"])
        rates = figure["rates"] or {}
        measured = (rates.get("prefill_s_per_token"), rates.get("decode_s_per_token"))
        sealed = (*place, figure["lane"], figure["rows"], figure["seconds"], *measured)
        ledger.execute(f"INSERT INTO segments VALUES ({', '.join('?' * len(sealed))})", sealed)


def _drop_run(ledger: "duckdb.DuckDBPyConnection", run: Run) -> None:
    for table in ("runs", "overheads", "segments"):
        ledger.execute(f"DELETE FROM {table} WHERE run_id = ?", [run.run_id])


def _overheads(run: Run) -> Iterator[dict[str, Any]]:
    collapsed = read_manifest(run.collapsed)
    if collapsed is not None:
        yield from collapsed.figures["overheads"]
    for segment in read_segments(run.segments):
        yield from (asdict(line) for line in segment.overheads)


def _part_files(run: Run) -> Iterator[tuple[str, str]]:
    for stage in run.stages:
        manifest = read_manifest(stage)
        for view in VIEW_SCHEMAS:
            for file in manifest.files(view) if manifest else []:
                if not file.exists():
                    raise Corrupt(f"{file}: missing; its manifest lists it")
                yield view, str(file.resolve())


def _make_view(ledger: "duckdb.DuckDBPyConnection", view: str, schema: pa.Schema, parts: list[tuple[str, str]]) -> None:
    """A view over exactly these files, each row with the run it belongs to; without files an empty one."""
    if not parts:
        columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in schema)
        ledger.execute(
            f"CREATE VIEW {view} AS SELECT NULL::VARCHAR AS run_id, NULL::VARCHAR AS file_of_part, {columns}"
            " WHERE false"
        )
        return
    ledger.execute(f"CREATE TABLE {view}_files (run_id VARCHAR, file VARCHAR)")
    ledger.executemany(f"INSERT INTO {view}_files VALUES (?, ?)", parts)
    listed = ", ".join(_quoted(file) for _, file in parts)
    columns = ", ".join(f'part."{name}"' for name in schema.names)
    ledger.execute(
        f"CREATE VIEW {view} AS SELECT listed.run_id, listed.file AS file_of_part, {columns}"
        f" FROM read_parquet([{listed}], filename = true) AS part"
        f" JOIN {view}_files AS listed ON listed.file = part.filename"
    )


def _sql_type(kind: pa.DataType) -> str:
    known = {pa.int64(): "BIGINT", pa.int32(): "INTEGER", pa.string(): "VARCHAR", pa.float64(): "DOUBLE"}
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return known.get(kind) or f"DECIMAL({kind.precision}, {kind.scale})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _state(runs: Path) -> str:
    """Changes whenever a run gains a file that counts."""
    found = [file for pattern in ("*/run.json", "*/*/*.json") for file in runs.glob(pattern)]
    marks = sorted((str(file.relative_to(runs)), file.stat().st_mtime_ns, file.stat().st_size) for file in found)
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def _state_of(file: Path) -> str | None:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as ledger:
            found = ledger.execute("SELECT state FROM ledger_state").fetchone()
            return found[0] if found else None
    except duckdb.Error:
        return None  # half written, of another version, or in another's hands: it is made anew
