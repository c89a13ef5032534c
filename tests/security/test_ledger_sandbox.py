"""A question to the ledger reads the runs and nothing else, however it is put."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.store.ledger import BadQuery, ask, open_ledger
from tests.cli.command import Place, rows

if TYPE_CHECKING:
    import duckdb

SECRET = "a-secret-elsewhere"

# {runs} the folder of the runs, {run} one of them, {out} a folder beside them that holds secret.csv and secret.parquet.
ELSEWHERE = [
    "SELECT * FROM read_csv('{out}/secret.csv')",
    "SELECT * FROM '{out}/secret.csv'",
    "SELECT * FROM read_csv('{runs}/../out/secret.csv')",
    "SELECT * FROM read_csv('{run}/../../out/secret.csv')",
    "SELECT * FROM read_csv('{runs}x/secret.csv')",
    "SELECT * FROM read_csv('{runs}/link.csv')",
    "SELECT * FROM read_csv('{run}/link.csv')",
    "SELECT * FROM read_csv('{run}/linked/secret.csv')",
    "SELECT * FROM read_parquet('{out}/secret.parquet')",
    "SELECT * FROM read_parquet(['{out}/secret.parquet'])",
    "SELECT * FROM read_parquet('{run}/planted.parquet')",
    "SELECT * FROM read_parquet('{run}/admitted/*.parquet')",
    "SELECT * FROM read_text('{out}/secret.csv')",
    "SELECT * FROM read_blob('{out}/secret.csv')",
    "SELECT * FROM read_text('{run}/run.json')",
    "SELECT * FROM read_json('{run}/run.json')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM glob('{out}/*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('{out}/secret.csv')",
    "SELECT * FROM parquet_metadata('{out}/secret.parquet')",
    "SELECT * FROM parquet_schema('{out}/secret.parquet')",
    "SELECT * FROM query('SELECT * FROM read_csv(''{out}/secret.csv'')')",
    "SELECT * FROM query_table('{out}/secret.csv')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT (SELECT content FROM read_text('{out}/secret.csv'))",
    "WITH x AS (SELECT * FROM read_csv('{out}/secret.csv')) SELECT * FROM x",
    "SELECT getenv('HOME')",
    "SELECT * FROM in_the_callers_frame",
]
NOT_A_QUESTION = [
    "COPY (SELECT 1) TO '{out}/written.csv'",
    "COPY (SELECT 1) TO '{run}/written.csv'",
    "COPY runs FROM '{out}/secret.csv'",
    "ATTACH '{out}/other.duckdb'",
    "ATTACH ':memory:' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}/evil.duckdb_extension'",
    "EXPORT DATABASE '{out}/dump'",
    "IMPORT DATABASE '{out}/dump'",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE MACRO runs() AS 1",
    "DROP VIEW rows",
    "DELETE FROM runs",
    "UPDATE runs SET tenant = 'b'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '1TB'",
    "SET allowed_directories = ['/']",
    "SET GLOBAL autoinstall_known_extensions = true",
    "RESET lock_configuration",
    "RESET enable_external_access",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "PREPARE p AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{out}/written.csv'",
    "SELECT 1; SET lock_configuration = false",
    "",
    ";",
    "-- nothing",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sandbox")
    place = Place(folder)
    place.job()
    place.prompts(rows(3))
    done = place.run()
    assert done.code == 0, done.err
    out, sibling, runs, run = folder / "out", folder / "runsx", folder / "runs", place.only_run
    for other in (out, sibling):
        other.mkdir()
        (other / "secret.csv").write_text(f"a,b\n{SECRET},2\n")
    table = pa.table({"text": [SECRET]})
    pq.write_table(table, out / "secret.parquet")
    pq.write_table(table, run / "planted.parquet")
    (runs / "link.csv").symlink_to(out / "secret.csv")
    (run / "link.csv").symlink_to(out / "secret.csv")
    (run / "linked").symlink_to(out)
    return {"runs": str(runs), "run": str(run), "out": str(out)}


@pytest.fixture
def ledger(places: dict[str, str]) -> "Iterator[duckdb.DuckDBPyConnection]":
    with open_ledger(Path(places["runs"])) as opened:
        yield opened


def test_a_plain_question_is_answered(ledger: "duckdb.DuckDBPyConnection") -> None:
    assert ask(ledger, "SELECT count(*) AS rows FROM rows").rows == [(3,)]
    assert ask(ledger, "SELECT text FROM requests ORDER BY text LIMIT 1;").rows == [("prompt number 0",)]
    assert ask(ledger, "WITH x AS (SELECT 1 AS a) SELECT a FROM x").rows == [(1,)]


@pytest.mark.parametrize("sql", ELSEWHERE)
def test_a_question_about_anything_else_is_refused(
    ledger: "duckdb.DuckDBPyConnection", places: dict[str, str], sql: str
) -> None:
    in_the_callers_frame = pa.table({"text": [SECRET]})
    assert in_the_callers_frame.num_rows == 1
    with pytest.raises(BadQuery) as refused:
        ask(ledger, sql.format(**places))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("sql", NOT_A_QUESTION)
def test_what_is_not_one_question_is_refused_and_changes_nothing(
    ledger: "duckdb.DuckDBPyConnection", places: dict[str, str], sql: str
) -> None:
    before = sorted(os.listdir(places["out"]))
    with pytest.raises(BadQuery):
        ask(ledger, sql.format(**places))
    assert sorted(os.listdir(places["out"])) == before
    assert not Path(places["run"], "written.csv").exists()
    assert ask(ledger, "SELECT count(*) AS rows FROM rows").rows == [(3,)]


@pytest.mark.parametrize(
    "name", ["enable_external_access", "autoinstall_known_extensions", "autoload_known_extensions"]
)
def test_what_would_open_the_sandbox_is_off(ledger: "duckdb.DuckDBPyConnection", name: str) -> None:
    assert ask(ledger, f"SELECT current_setting('{name}') AS value").rows == [(False,)]


def test_the_sandbox_cannot_be_opened_from_within(ledger: "duckdb.DuckDBPyConnection") -> None:
    """Nor by our own code: the connection itself is locked, not only `ask`."""
    import duckdb

    assert ask(ledger, "SELECT current_setting('lock_configuration') AS value").rows == [(True,)]
    with pytest.raises(duckdb.Error):
        ledger.execute("SET lock_configuration = false")


def test_a_value_is_bound_and_never_read_as_sql(ledger: "duckdb.DuckDBPyConnection") -> None:
    hostile = "x'; DROP VIEW rows; --"
    assert ask(ledger, "SELECT $value AS value", value=hostile).rows == [(hostile,)]
