"""The ledger: DuckDB views over the sealed files of all runs. The only importer of duckdb.

Nothing lives here alone: the file can be deleted at any time and is made again from the run folders. It reads the exact
list of files that manifests name, never a glob, so a half-written file can neither break nor falsify a figure; and it
reads none before its sha256 is that of its manifest.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from serving.records import Load
from serving.store.durable import WRITING, sync_folder
from serving.store.parts import read_manifest
from serving.store.predictions import predictions
from serving.store.run import Run, all_runs
from serving.store.schemas import (
    CERTIFICATES,
    CONTROLS,
    EARLIER,
    LOOKS,
    MEMBERS,
    NEAR,
    NOISE,
    PAIRS,
    REFUSED,
    REQUESTS,
    ROUTES,
    SEGMENT,
    TRIALS,
    VERDICTS,
)
from serving.store.sealed import Corrupt
from serving.store.segments import MANIFEST, Name, Segment, read_segments

if TYPE_CHECKING:
    import duckdb

FILE = "ledger.duckdb"
RUNS = """CREATE TABLE runs (run_id VARCHAR, tenant VARCHAR, dataset VARCHAR, created_unix_s DOUBLE, engine VARCHAR,
    full_model VARCHAR, quantized_model VARCHAR, rows_in BIGINT, refused BIGINT, price_source VARCHAR,
    price_as_of VARCHAR, usd_per_hour DECIMAL(24, 12), input_usd_per_mtok DECIMAL(24, 12),
    output_usd_per_mtok DECIMAL(24, 12), budget_usd DECIMAL(24, 12))"""
OVERHEADS = """CREATE TABLE overheads (run_id VARCHAR, kind VARCHAR, lane VARCHAR, seconds DOUBLE,
    usd DECIMAL(24, 12), tokens BIGINT, engine VARCHAR)"""
SEGMENTS = """CREATE TABLE segments (run_id VARCHAR, file VARCHAR, epoch INTEGER, chain VARCHAR, number INTEGER,
    sealed_unix_s DOUBLE, lane VARCHAR, engine VARCHAR, rows BIGINT, seconds DOUBLE, prefill_s_per_token DOUBLE,
    decode_s_per_token DOUBLE, running DOUBLE, kv_share DOUBLE, decode_s DOUBLE,
    decode_steps DOUBLE, decode_tokens DOUBLE, mixed_s DOUBLE, mixed_steps DOUBLE, mixed_prefill DOUBLE,
    mixed_decode DOUBLE)"""
PREDICTIONS = """CREATE TABLE predictions (run_id VARCHAR, made VARCHAR, lane VARCHAR, factor VARCHAR,
    predicted DOUBLE, low_90 DOUBLE, high_90 DOUBLE)"""
SEARCHES = """CREATE TABLE searches (run_id VARCHAR, rows BIGINT, texts BIGINT, pairs BIGINT, lists BIGINT,
    asked BIGINT, found BIGINT)"""
PRICES = """CREATE TABLE prices (machine VARCHAR, provider VARCHAR, gpu VARCHAR, gpus INTEGER, spot BOOLEAN,
    region VARCHAR, usd_per_hour DECIMAL(24, 12), as_of VARCHAR, source VARCHAR)"""
STAMPED = ("*/run.json", "*/admitted/*.json", "*/decisions/*.json", "*/predictions/*.json")
EVERYWHERE = "everywhere"  # of columns.toml: what means the same in each view
SPILL = ".spill"  # where a query that is too large for its memory goes on, below the runs
LOCKED_DOWN = (
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_community_extensions = false",
    "memory_limit = '256MB'",
    "max_temp_directory_size = '100GB'",
    "threads = 2",
    "enable_external_access = false",
    "lock_configuration = true",
)
UNREADABLE = "CREATE TABLE unreadable (run_id VARCHAR, reason VARCHAR)"
VIEW_SCHEMAS = {
    "requests": REQUESTS,
    "refusals": REFUSED,
    "pairs": PAIRS,
    "members": MEMBERS,
    "earlier": EARLIER,
    "near": NEAR,
    "looks": LOOKS,
    "routes": ROUTES,
    "trials": TRIALS,
    "verdicts": VERDICTS,
    "controls": CONTROLS,
    "certificates": CERTIFICATES,
    "noise": NOISE,
}


class LedgerFault(OSError):
    """DuckDB could not read or write what it was asked to; the run folders are as they were."""


class BadQuery(ValueError):
    """A query that is not known, or that DuckDB refused."""


class ListedPrice(NamedTuple):
    """A row of `prices`: what an hour of a whole machine costs, whoever had it."""

    machine: str
    provider: str
    gpu: str | None  # None: a CPU machine
    gpus: int
    spot: bool
    region: str | None
    usd_per_hour: Decimal
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    question: str  # what it answers, the file's first line
    sql: str


@dataclass(frozen=True, slots=True)
class Answer:
    columns: list[str]
    rows: list[tuple[Any, ...]]


@contextmanager
def open_ledger(
    runs: Path, only: Run | None = None, commented: bool = False, prices: Sequence[ListedPrice] = ()
) -> Iterator["duckdb.DuckDBPyConnection"]:
    """All views, in memory: no lock, so it can be read while a run goes on. It reads the files of the runs, or those of
    the `only` run that is asked about, and nothing else. What each view and column is, it says if it is `commented`.
    `prices` is what machines cost elsewhere.

    Raises:
        LedgerFault: DuckDB met an error of the disk or of the machine.
    """
    import duckdb

    with _explained(runs), duckdb.connect(":memory:") as ledger:
        listed = _fill(ledger, runs, only, prices)
        if commented:
            _comment(ledger)
        # The order matters: once external access is off no file can be added, and at last no setting can be changed.
        ledger.execute("SET allowed_paths = $files", {"files": listed})
        ledger.execute("SET temp_directory = $spill", {"spill": str(runs.resolve() / SPILL)})
        for setting in LOCKED_DOWN:
            ledger.execute(f"SET {setting}")
        yield ledger


def write_ledger(runs: Path, prices: Sequence[ListedPrice] = ()) -> Path:
    """The same views as a file that any DuckDB client can open; made anew only where the runs have changed."""
    import duckdb

    file, aside = runs / FILE, runs / f".{FILE}.{os.getpid()}{WRITING}"
    state = _state(runs, prices)
    if file.exists() and _state_of(file) == state:
        return file
    _drop_unfinished(runs)
    with _explained(file):
        with duckdb.connect(str(aside)) as ledger:
            ledger.begin()
            _fill(ledger, runs, None, prices)
            _comment(ledger)
            ledger.execute("CREATE TABLE ledger_state AS SELECT $state AS state", {"state": state})
            ledger.commit()
            ledger.execute("CHECKPOINT")  # closing does it too, and says nothing where it fails
        with duckdb.connect(str(aside), read_only=True) as ledger:  # what a client will find
            ledger.execute("SELECT * FROM bills, ledger_state").fetchall()
        aside.replace(file)
    sync_folder(runs)
    return file


@contextmanager
def _explained(what: Path) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        said = " ".join(str(error).split())[:300]
        raise LedgerFault(f"{what}: DuckDB: {said}; mend that, then run the same command again") from None


def _drop_unfinished(runs: Path) -> None:
    """What a process left that was killed while it made the ledger; others may be making theirs."""
    for left in runs.glob(f".{FILE}.*{WRITING}*"):
        pid = left.name.removeprefix(f".{FILE}.").partition(".")[0]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            left.unlink(missing_ok=True)


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


def _fill(
    ledger: "duckdb.DuckDBPyConnection", runs: Path, only: Run | None, prices: Sequence[ListedPrice]
) -> list[str]:
    """Make all tables and views; returns the files that they read."""
    ledger.execute("SET enable_progress_bar = false")  # a receipt goes to files and pipes as well
    for statement in (RUNS, OVERHEADS, SEGMENTS, PREDICTIONS, SEARCHES, PRICES, UNREADABLE):
        ledger.execute(statement)
    if prices:
        cells = ", ".join("(?, ?, ?, ?, ?, ?, ?, ?, ?)" for _ in prices)
        ledger.execute(f"INSERT INTO prices VALUES {cells}", [cell for price in prices for cell in price])
    known = [only] if only else all_runs(runs) if runs.exists() else []
    parts: dict[str, list[tuple[str, str]]] = {view: [] for view in VIEW_SCHEMAS}
    for run in known:
        try:
            found = list(_part_files(run))
            _add_run(ledger, run)
            for view, file in found:
                parts[view].append((run.run_id, file))
        except Corrupt as fault:  # what it holds is not counted, and whoever asks is told
            _drop_run(ledger, run)
            ledger.execute("INSERT INTO unreadable VALUES (?, ?)", (run.run_id, str(fault)))
    for view, schema in VIEW_SCHEMAS.items():
        _make_view(ledger, view, schema, parts[view])
    listed = ledger.execute("SELECT run_id, file FROM segments").fetchall()
    _make_view(ledger, "settled", SEGMENT, listed)
    ledger.execute(files("serving.store").joinpath("views.sql").read_text(encoding="utf-8"))
    return [file for view in (*parts.values(), listed) for _, file in view]


def _comment(ledger: "duckdb.DuckDBPyConnection") -> None:
    """Says of each view and column what it is, where any client of the ledger finds it."""
    told = _columns()
    tables = {name for (name,) in ledger.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    statements = [
        f"COMMENT ON {'TABLE' if view in tables else 'VIEW'} {view} IS {_quoted(columns['about'])};"
        for view, columns in told.items()
        if view != EVERYWHERE
    ]
    found = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    for view, column in ledger.execute(found).fetchall():
        own = told.get(view)
        if own is not None:
            meaning = own.get(column) or told["rows" if view == "settled" else EVERYWHERE].get(column)
            meaning = meaning or told[EVERYWHERE][column]
            statements.append(f'COMMENT ON COLUMN {view}."{column}" IS {_quoted(meaning)};')
    ledger.execute("".join(statements))


@cache
def _columns() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("serving.store").joinpath("columns.toml").read_text(encoding="utf-8"))


def _add_run(ledger: "duckdb.DuckDBPyConnection", run: Run) -> None:
    facts = run.facts
    job, price = facts["job"], facts["price"]
    admitted = read_manifest(run.admitted)
    figures = admitted.figures if admitted else {"rows": None}
    models = (job["model"]["full"], job["model"]["quantized"])
    row = (
        run.run_id, job["tenant"]["name"], job["dataset"]["path"], facts["created_unix_s"], job["engine"]["kind"],
        *models, figures["rows"], admitted.rows("refusals") if admitted else None, price["source"], price["as_of"],
        price["usd_per_hour"], price["input_usd_per_mtok"], price["output_usd_per_mtok"], job["budget"]["usd"],
    )  # fmt: skip
    _insert(ledger, "runs", row)
    for told in predictions(run):
        _insert(ledger, "predictions", (run.run_id, *astuple(told)))
    if search := _search(run):
        _insert(ledger, "searches", (run.run_id, *search.values()))
    segments = read_segments(run.segments)
    for line in _overheads(run, segments):
        _insert(ledger, "overheads", (run.run_id, *line.values()))
    for segment in segments:
        segment.witness.check(segment.table)
        figure, name = segment.facts, segment.name
        place = (run.run_id, str(segment.table.resolve()), name.epoch, name.chain, name.number, figure["sealed_unix_s"])
        rates = figure["rates"] or {}
        measured = (rates.get("prefill_s_per_token"), rates.get("decode_s_per_token"))
        did = (figure["lane"], figure["engine"], figure["rows"], figure["seconds"])
        _insert(ledger, "segments", (*place, *did, *measured, *_load(figure["load"])))


def _load(told: dict[str, float] | None) -> tuple[float | None, ...]:
    """How full the engine was, the mean over its time, and what its steps did; nothing where it does not show them."""
    if told is None:
        return (None,) * 9
    load = Load(**told)
    seconds = load.decode_s + load.mixed_s
    full = (load.running_s / seconds, load.kv_s / seconds) if seconds else (None, None)
    return (*full, *astuple(load)[: -len(full)])


def _insert(ledger: "duckdb.DuckDBPyConnection", table: str, row: tuple[Any, ...]) -> None:
    ledger.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _drop_run(ledger: "duckdb.DuckDBPyConnection", run: Run) -> None:
    for table in ("runs", "overheads", "segments", "predictions", "searches"):
        ledger.execute(f"DELETE FROM {table} WHERE run_id = ?", [run.run_id])


def _overheads(run: Run, segments: list[Segment]) -> Iterator[dict[str, Any]]:
    collapsed = read_manifest(run.collapsed)
    if collapsed is not None:
        yield from collapsed.figures["overheads"]
    for segment in segments:
        yield from (asdict(line) for line in segment.overheads)


def _search(run: Run) -> dict[str, Any]:
    """How near-duplicates were looked for; nothing where they were not."""
    collapsed = read_manifest(run.collapsed)
    search: dict[str, Any] = collapsed.figures.get("neighbours", {}) if collapsed else {}
    return search


def _part_files(run: Run) -> Iterator[tuple[str, str]]:
    for stage in run.stages:
        manifest = read_manifest(stage)
        for part in manifest.parts if manifest else []:
            file = stage.parent / part.name
            part.witness.check(file)
            yield part.table, str(file.resolve())


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
    known = {
        pa.int64(): "BIGINT",
        pa.int32(): "INTEGER",
        pa.string(): "VARCHAR",
        pa.float64(): "DOUBLE",
        pa.bool_(): "BOOLEAN",
    }
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return known.get(kind) or f"DECIMAL({kind.precision}, {kind.scale})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _state(runs: Path, prices: Sequence[ListedPrice]) -> str:
    """Changes whenever a run gains a file that the views read, or another version would make other views."""
    read = [file for pattern in STAMPED for file in runs.glob(pattern)]
    read += [file for file in runs.glob("*/segments/*.json") if Name.of(file, MANIFEST)]
    marks = sorted((str(file.relative_to(runs)), file.stat().st_mtime_ns, file.stat().st_size) for file in read)
    ours = [files("serving.store").joinpath(name).read_text(encoding="utf-8") for name in ("views.sql", "columns.toml")]
    return hashlib.sha256(json.dumps([marks, ours, prices], default=str).encode()).hexdigest()


def _state_of(file: Path) -> str | None:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as ledger:
            found = ledger.execute("SELECT state FROM ledger_state").fetchone()
            return found[0] if found else None
    except duckdb.Error:
        return None  # half written, of another version, or in another's hands: it is made anew
