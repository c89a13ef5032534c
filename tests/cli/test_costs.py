"""`gristmill costs`: every named query runs in every form; a query can only read."""

import csv
import io
import json
import shutil
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from flows.costs import costs
from serving.store.ledger import BadQuery, named_queries
from tests.cli.command import Place, digests, one_line, row, rows

QUERIES = sorted(named_queries())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder with one finished run: 4 answered (one a duplicate), 1 refused."""
    found = Place(tmp_path_factory.mktemp("costs"))
    found.job()
    found.prompts([*rows(3), row("again", "prompt number 0"), {"custom_id": "bad"}])
    assert found.run().code == 0
    return found


def test_bare_it_lists_every_query_with_its_whole_question(place: Place) -> None:
    out = place.gristmill("costs").out
    assert [query.name for query in named_queries().values() if query.name not in out] == []
    assert [query.question for query in named_queries().values() if query.question not in out] == []


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize("name", QUERIES)
def test_every_named_query_runs_in_every_form(place: Place, name: str, form: str) -> None:
    out = costs(place.folder / "runs", name, None, form)
    columns = out.splitlines()[0] if form == "table" else None
    if form == "json":
        assert isinstance(json.loads(out), list)
    elif form == "csv":
        assert len({len(cells) for cells in csv.reader(io.StringIO(out))}) == 1
    else:
        assert columns


@pytest.mark.parametrize("name", sorted({*QUERIES} - {"columns"}))
def test_every_named_query_runs_without_a_run(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    assert json.loads(costs(runs, name, None, "json")) == []


def test_without_a_runs_folder_costs_are_empty_and_make_none(tmp_path: Path) -> None:
    done = Place(tmp_path).gristmill("costs", "by-run", "--format", "csv")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 1  # the heading
    assert list(tmp_path.iterdir()) == []


def test_the_three_forms_say_the_same(place: Place) -> None:
    sql = "SELECT custom_id, outcome FROM rows ORDER BY row"
    forms = {form: costs(place.folder / "runs", None, sql, form) for form in ("table", "csv", "json")}
    ids = ["id-0", "id-1", "id-2", "again"]
    assert [line["custom_id"] for line in json.loads(forms["json"])] == ids
    assert [cells[0] for cells in csv.reader(io.StringIO(forms["csv"]))] == ["custom_id", *ids]
    assert [line.split()[0] for line in forms["table"].splitlines()] == ["custom_id", "---------", *ids]


def test_an_unknown_query_lists_the_known_ones(place: Place) -> None:
    done = place.gristmill("costs", "by-moon")
    assert done.code == 2
    assert [name for name in QUERIES if name not in one_line(done.err)] == []


FORBIDDEN = {
    "drop": "DROP VIEW rows",
    "copy": "COPY (SELECT 1) TO 'stolen.csv'",
    "attach": "ATTACH 'other.duckdb'",
    "two statements": "SELECT 1; SELECT 2",
    "a hidden second": "SELECT 1; DROP VIEW rows",
    "pragma": "PRAGMA database_list",
    "set": "SET enable_external_access = true",
    "install": "INSTALL httpfs",
    "insert": "INSERT INTO runs (run_id) VALUES ('x')",
    "create": "CREATE TABLE t AS SELECT 1",
    "read a file": "SELECT * FROM read_text('/etc/passwd')",
    "read a csv": "SELECT * FROM read_csv('/etc/passwd')",
    "read a file by name": "SELECT * FROM '/etc/passwd'",
    "list files": "SELECT * FROM glob('/etc/*')",
    "leave the folder": "SELECT * FROM read_text('runs/../job.toml')",
    "nothing": "",
    "not sql": "what did it cost",
    "no such table": "SELECT * FROM nowhere",
}


@pytest.mark.parametrize("sql", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_query_can_only_read_the_ledger(place: Place, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.chdir(place.folder)
    before = digests(place.folder)
    with pytest.raises(BadQuery):
        costs(Path("runs"), None, sql, "table")
    after = digests(place.folder)
    made_anew = "runs/ledger.duckdb"  # which may be made again from the runs at any time
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {made_anew}


@pytest.mark.parametrize("name", ["drop", "copy", "attach", "two statements"])
def test_a_refused_query_is_exit_code_2_and_one_line(place: Place, name: str) -> None:
    done = place.gristmill("costs", "--sql", FORBIDDEN[name])
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err).startswith("gristmill: ")


def test_an_error_of_duckdb_is_one_line_too(place: Place) -> None:
    done = place.gristmill("costs", "--sql", "SELECT usdd FROM rows")
    assert done.code == 2
    assert "usdd" in one_line(done.err)


def test_a_link_among_the_runs_does_not_lead_out(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder / "runs", tmp_path / "runs")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "runs" / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadQuery):
        costs(tmp_path / "runs", None, f"SELECT * FROM read_text('{tmp_path}/runs/../secret.txt')", "table")


def test_costs_can_be_asked_while_a_run_writes(place: Place, tmp_path: Path) -> None:
    """The ledger in memory takes no lock: another client that has the file open is in nobody's way."""
    shutil.copytree(place.folder / "runs", tmp_path / "runs")
    with duckdb.connect(str(tmp_path / "runs" / "ledger.duckdb")):
        done = Place(tmp_path).gristmill("costs", "by-run")
    assert (done.code, done.err) == (0, "")


@pytest.fixture
def damaged(place: Place, tmp_path: Path) -> tuple[Place, Path]:
    """A sound run, a copy of it with one flipped bit, and the file that has it."""
    copy = Place(tmp_path)
    shutil.copytree(place.folder, copy.folder, dirs_exist_ok=True)
    other = Path(shutil.copytree(copy.only_run, copy.folder / "runs" / "other"))
    (table,) = other.glob("segments/0001-full-*.parquet")
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    return copy, table


def test_no_figure_is_printed_while_a_run_is_damaged(damaged: tuple[Place, Path]) -> None:
    done = damaged[0].gristmill("costs", "by-run")
    assert (done.code, done.out) == (4, "")
    assert str(damaged[1].relative_to(damaged[0].folder)) in one_line(done.err)
    assert "--leave-out-damaged" in one_line(done.err)


def test_a_damaged_run_can_be_left_out_and_is_named(damaged: tuple[Place, Path]) -> None:
    sql = "SELECT count(*) AS rows FROM rows"
    done = damaged[0].gristmill("costs", "--leave-out-damaged", "--format", "json", "--sql", sql)
    assert (done.code, json.loads(done.out)) == (0, [{"rows": 4}])  # those of the sound run
    assert "run other is left out: " in one_line(done.err)
    assert str(damaged[1].relative_to(damaged[0].folder)) in one_line(done.err)


def test_money_adds_up_across_tables(place: Place) -> None:
    (total,) = place.ask(
        "SELECT (SELECT sum(usd) FROM bills) AS bills,"
        " (SELECT sum(usd) FROM rows) + (SELECT sum(usd) FROM overheads) AS parts"
    )
    assert total["bills"] == total["parts"]
    assert Decimal(total["bills"]) > 0
