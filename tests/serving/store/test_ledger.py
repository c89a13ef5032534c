"""The ledger: views that are made from the run folders, read-only, and confined to them."""

import shutil
import subprocess
import sys
import tomllib
from decimal import Decimal
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from serving.records import Overhead
from serving.store.ledger import FILE, VIEW_SCHEMAS, BadQuery, ask, named_queries, open_ledger, write_ledger
from serving.store.run import Run
from serving.store.sealed import read_sealed, write_sealed
from serving.store.segments import Span, read_segments
from tests.settled import Settled

QUERIES = named_queries()
VIEWS = [
    *VIEW_SCHEMAS, "runs", "overheads", "segments", "settled", "rows", "lanes", "bills", "baselines", "waste",
    "unreadable",
]  # fmt: skip
HOLD = """
import sys, duckdb
ledger = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def one(runs: Path, sql: str) -> object:
    with open_ledger(runs) as ledger:
        [(value,)] = ask(ledger, sql).rows
    return value


# Views.


def test_every_column_of_every_view_says_what_it_is(tmp_path: Path) -> None:
    unsaid = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
    views = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL"
    with open_ledger(tmp_path, commented=True) as ledger:
        assert ask(ledger, unsaid).rows == []
        assert ask(ledger, views).rows == []


def test_what_is_said_of_a_column_is_said_of_one_that_there_is(tmp_path: Path) -> None:
    told = tomllib.loads(resources.files("serving.store").joinpath("columns.toml").read_text())
    told.pop("everywhere")
    with open_ledger(tmp_path) as ledger:
        there = set(ask(ledger, "SELECT table_name, column_name FROM duckdb_columns()").rows)
    said = {(view, column) for view, columns in told.items() for column in columns if column != "about"}
    assert said - there == set()


def test_a_client_of_the_file_reads_them_too(runs: Path) -> None:
    with duckdb.connect(str(write_ledger(runs)), read_only=True) as ledger:
        found = "SELECT comment FROM duckdb_columns() WHERE table_name = 'rows' AND column_name = 'usd'"
        assert "its charge" in ledger.execute(found).fetchone()[0]  # type: ignore[index]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_there_before_the_first_run(tmp_path: Path, view: str) -> None:
    assert one(tmp_path / "none", f"SELECT count(*) FROM {view}") == 0


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - {"columns"}))
def test_every_named_query_runs_on_no_runs(tmp_path: Path, name: str) -> None:
    with open_ledger(tmp_path) as ledger:
        assert ask(ledger, QUERIES[name].sql).rows == []


@pytest.mark.parametrize("name", QUERIES)
def test_every_named_query_runs_on_a_real_run(runs: Path, name: str) -> None:
    with open_ledger(runs) as ledger:
        assert ask(ledger, QUERIES[name].sql).columns


@pytest.mark.parametrize("name", ["by-run", "by-lane", "by-model", "by-day", "by-tenant", "failures", "refusals"])
def test_a_named_query_finds_what_the_run_did(runs: Path, name: str) -> None:
    with open_ledger(runs) as ledger:
        assert ask(ledger, QUERIES[name].sql).rows


@pytest.mark.parametrize("name", QUERIES)
def test_every_named_query_begins_with_the_question_that_it_answers(name: str) -> None:
    assert QUERIES[name].question.partition("?")[1] == "?"


def test_the_views_of_an_empty_ledger_have_the_columns_of_a_full_one(runs: Path, tmp_path: Path) -> None:
    columns = []
    for folder in (runs, tmp_path / "none"):
        with open_ledger(folder) as ledger:
            columns.append({view: ask(ledger, f"DESCRIBE {view}").rows for view in VIEWS})
    assert columns[0] == columns[1]


def test_the_rows_of_the_run_are_counted_by_how_they_left(runs: Path) -> None:
    # The fixture's seven rows: a, b, a-again and c are answered, f fails, two are refused.
    with open_ledger(runs) as ledger:
        [row] = ask(ledger, "SELECT rows_in, answered, failed, refused FROM runs JOIN bills USING (run_id)").rows
    assert row == (7, 4, 1, 2)


def test_a_bill_is_its_rows_and_its_overheads(runs: Path, run: Run) -> None:
    segments = read_segments(run.segments)
    written = sum((Decimal(segment.facts["usd"]) for segment in segments), Decimal(0))
    written += sum((line.usd for segment in segments for line in segment.overheads), Decimal(0))
    assert one(runs, "SELECT usd FROM bills") == written > 0


def test_money_stays_an_exact_decimal(runs: Path) -> None:
    assert one(runs, "SELECT DISTINCT typeof(usd) FROM rows") == "DECIMAL(24,12)"


def test_a_row_that_was_served_cost_nothing(runs: Path) -> None:
    assert one(runs, "SELECT usd FROM rows WHERE custom_id = 'a-again'") == 0


def test_two_runs_are_kept_apart(runs: Path, run: Run) -> None:
    shutil.copytree(run.folder, runs / "another")
    sql = "SELECT run_id, count(*), sum(rows.usd) = any_value(rows_usd) FROM rows JOIN bills USING (run_id) GROUP BY 1"
    with open_ledger(runs) as ledger:
        found = ask(ledger, sql).rows
    assert sorted(found) == sorted([(run.run_id, 5, True), ("another", 5, True)])


def test_a_table_without_its_manifest_is_not_counted(runs: Path, run: Run) -> None:
    table = read_segments(run.segments)[0].table
    shutil.copy(table, run.segments / "0009-full-000000.parquet")
    (run.segments / "0009-full-000001.parquet").write_bytes(b"half written")
    assert one(runs, "SELECT count(*) FROM rows") == 5


@pytest.mark.parametrize("name", ["o'brien", "a[1]", "a*b", "a b", "ünï"])
def test_the_runs_folder_may_have_any_name(runs: Path, name: str) -> None:
    assert one(Path(shutil.move(runs, runs.parent / name)), "SELECT count(*) FROM rows") == 5


@pytest.mark.parametrize("content", ["{", '{"format": 1}', '{"format": 99}'])
def test_a_run_that_cannot_be_read_does_not_hide_the_others(runs: Path, content: str) -> None:
    (runs / "bad").mkdir()
    (runs / "bad" / "run.json").write_text(content)
    assert one(runs, "SELECT count(*) FROM rows") == 5


# Damage.


def damaged(run: Run, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILES = ["run.json", "admitted/*.json", "admitted/*.parquet", "decisions/*.json", "decisions/*.parquet",
         "segments/*-full-*.json", "segments/*.parquet"]  # fmt: skip


@pytest.mark.parametrize("pattern", FILES)
def test_one_flipped_bit_keeps_the_run_out_and_names_the_file(runs: Path, run: Run, pattern: str) -> None:
    shutil.copytree(run.folder, runs / "sound")
    for file in run.folder.glob(pattern):
        sound = file.read_bytes()
        damaged(run, file)
        with open_ledger(runs) as ledger:
            [(run_id, reason)] = ask(ledger, "SELECT run_id, reason FROM unreadable").rows
            counted = [ask(ledger, f"SELECT DISTINCT run_id FROM {view}").rows for view in ("runs", "rows", "requests")]
            assert ask(ledger, "SELECT count(*) FROM segments WHERE run_id <> 'sound'").rows == [(0,)]
            assert ask(ledger, "SELECT count(*) FROM overheads WHERE run_id <> 'sound'").rows == [(0,)]
        assert (run_id, str(file) in reason) == (run.run_id, True)
        assert counted == [[("sound",)]] * 3
        file.write_bytes(sound)


def test_a_file_that_is_gone_keeps_the_run_out(runs: Path, run: Run) -> None:
    table = read_segments(run.segments)[0].table
    table.unlink()
    assert f"{table}: missing" in str(one(runs, "SELECT reason FROM unreadable"))
    assert one(runs, "SELECT count(*) FROM rows") == 0


def test_nothing_is_unreadable_in_sound_runs(runs: Path) -> None:
    assert one(runs, "SELECT count(*) FROM unreadable") == 0


# Waste.


def test_waste_is_what_was_spent_without_a_settled_row(runs: Path, run: Run) -> None:
    lost = Overhead("waste", "full", 2.0, Decimal("0.5"), 7, "0001-full-001")
    start = Overhead("start_up", "full", 1.0, Decimal("0.25"), 0, "0001-full-001")
    with run.writer() as writer:
        writer.chain("house").seal(Span(overheads=[lost, start]))
    with open_ledger(runs) as ledger:
        found = ask(ledger, "SELECT lane, engine, seconds, tokens, usd FROM waste").rows
        shown = ask(ledger, QUERIES["waste"].sql).rows
    assert found == [("full", "0001-full-001", 2.0, 7, Decimal("0.5"))]
    assert shown == [(run.run_id, "full", 1, 7, 2.0, Decimal("0.5"))]


def test_waste_is_no_part_of_what_rows_cost(runs: Path, run: Run, settled: Settled) -> None:
    before = one(runs, "SELECT sum(usd) FROM rows")
    with run.writer() as writer:
        writer.chain("house").seal(Span(overheads=[Overhead("waste", "full", 2.0, Decimal("0.5"))]))
    assert one(runs, "SELECT sum(usd) FROM rows") == before


# Asking.


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW rows",
        "INSERT INTO runs SELECT * FROM runs",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "ATTACH 'other.db'",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW rows",
        "",
        "-- nothing",
    ],
)
def test_a_question_is_one_select(runs: Path, sql: str) -> None:
    with open_ledger(runs) as ledger, pytest.raises(BadQuery, match="one SELECT statement; the ledger is for reading"):
        ask(ledger, sql)


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT nothing", "SELECT * FROM nowhere", "SELECT ?", "SELECT"])
def test_what_duckdb_refuses_is_a_bad_query_in_its_words(runs: Path, sql: str) -> None:
    with open_ledger(runs) as ledger, pytest.raises(BadQuery, match=r"^DuckDB: .*Error"):
        ask(ledger, sql)


def test_values_are_bound_not_written_into_the_text(runs: Path) -> None:
    with open_ledger(runs) as ledger:
        answer = ask(ledger, "SELECT $name AS name", name="'; DROP VIEW rows; --")
    assert answer.rows == [("'; DROP VIEW rows; --",)]


@pytest.mark.parametrize(
    "source",
    [
        "read_text('{outside}')",
        "read_text('{runs}/../secret.csv')",
        "read_text('{runs}/link.txt')",
        "read_csv('{outside}')",
        "'{outside}'",
        "glob('{outside}*')",
        "read_csv('http://127.0.0.1:9/x.csv')",
    ],
)
def test_a_question_cannot_read_outside_the_runs(runs: Path, source: str) -> None:
    outside = runs.parent / "secret.csv"
    outside.write_text("secret")
    (runs / "link.txt").symlink_to(outside)
    sql = f"SELECT * FROM {source.format(outside=outside, runs=runs)}"
    with open_ledger(runs) as ledger, pytest.raises(BadQuery, match="Permission Error"):
        ask(ledger, sql)


@pytest.mark.parametrize(
    "source", ["read_text('{file}')", "'{file}'", "read_parquet('{file}')", "read_blob('{folder}/*')"]
)
def test_a_question_can_read_the_files_that_manifests_list_and_no_other(runs: Path, run: Run, source: str) -> None:
    # The answers of the run are in its folder, and so is a table that no manifest names.
    for file in (run.export / "results.jsonl", run.segments / "0009-full-000000.parquet"):
        file.write_bytes(b"secret")
        sql = f"SELECT * FROM {source.format(file=file, folder=file.parent)}"
        with open_ledger(runs) as ledger, pytest.raises(BadQuery, match="Permission Error"):
            ask(ledger, sql)


def test_a_ledger_of_one_run_reads_no_file_of_another(runs: Path, run: Run) -> None:
    other = Run(Path(shutil.copytree(run.folder, runs / "another")))
    table = read_segments(other.segments)[0].table
    with open_ledger(runs, only=run) as ledger:
        assert ask(ledger, "SELECT DISTINCT run_id FROM rows").rows == [(run.run_id,)]
        with pytest.raises(BadQuery, match="Permission Error"):
            ask(ledger, f"SELECT * FROM '{table}'")


def test_the_ledger_cannot_be_unlocked_again(runs: Path) -> None:
    with open_ledger(runs) as ledger, pytest.raises(duckdb.Error, match="locked"):
        ledger.execute("SET enable_external_access = true")


# The file.


def test_the_file_holds_the_same_views(runs: Path) -> None:
    with duckdb.connect(str(write_ledger(runs)), read_only=True) as ledger:
        assert ledger.execute("SELECT count(*) FROM rows").fetchone() == (5,)


def test_the_file_is_left_alone_while_nothing_changes(runs: Path) -> None:
    before = write_ledger(runs).stat()
    after = write_ledger(runs).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"not a database")])
def test_the_file_can_be_deleted_or_damaged_and_is_made_again(runs: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(write_ledger(runs))
    with duckdb.connect(str(write_ledger(runs)), read_only=True) as ledger:
        assert ledger.execute("SELECT count(*) FROM rows").fetchone() == (5,)


def test_a_run_that_is_gone_is_gone_from_the_file(runs: Path, run: Run) -> None:
    write_ledger(runs)
    shutil.rmtree(run.folder)
    with duckdb.connect(str(write_ledger(runs)), read_only=True) as ledger:
        assert ledger.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_a_run_that_was_made_anew_is_read_anew(runs: Path, run: Run) -> None:
    # As when a run folder is deleted and its job run again at another price: the same files with other figures.
    write_ledger(runs)
    facts = read_sealed(run.folder / "run.json")
    facts["price"]["usd_per_hour"] = "7200"
    write_sealed(run.folder / "run.json", facts)
    with duckdb.connect(str(write_ledger(runs)), read_only=True) as ledger:
        assert ledger.execute("SELECT usd_per_hour FROM runs").fetchone() == (Decimal(7200),)


def test_the_ledger_is_read_and_written_while_another_process_holds_the_file(runs: Path) -> None:
    write_ledger(runs)
    command = [sys.executable, "-P", "-c", HOLD, str(runs / FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        counted = one(runs, "SELECT count(*) FROM rows")
        written = write_ledger(runs)
        holder.kill()
    assert (counted, written) == (5, runs / FILE)
