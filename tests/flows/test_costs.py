"""`gristmill costs`: a question to the ledger as a table, as CSV or as JSON."""

import csv
import io
import json
from pathlib import Path

import pytest

from flows.costs import costs
from serving.store.ledger import BadQuery, named_queries
from serving.store.sealed import Corrupt


@pytest.mark.parametrize("name", named_queries())
def test_bare_it_lists_every_question(tmp_path: Path, name: str) -> None:
    assert f"{name} " in costs(tmp_path, None, None, "table")


@pytest.mark.parametrize("name", named_queries())
@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_every_question_is_answered_before_the_first_run(tmp_path: Path, name: str, form: str) -> None:
    assert costs(tmp_path / "none", name, None, form)


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    costs(tmp_path / "none", "by-run", None, "table")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_question_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        BadQuery, match=r"no query is named 'by-hour'; known: audits, budget, by-dataset, by-day, by-lane, "
    ):
        costs(tmp_path, "by-hour", None, "table")


def test_a_name_and_a_statement_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(BadQuery, match="give a name or --sql, not both"):
        costs(tmp_path, "by-run", "SELECT 1", "table")


def test_a_statement_that_changes_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadQuery, match="one SELECT statement"):
        costs(tmp_path, None, "DROP VIEW rows", "table")


def test_an_empty_statement_is_refused_not_taken_for_none(tmp_path: Path) -> None:
    with pytest.raises(BadQuery, match="one SELECT statement"):
        costs(tmp_path, None, "", "table")


def test_a_table_has_numbers_to_the_right_and_texts_to_the_left(tmp_path: Path) -> None:
    sql = "SELECT 'ab' AS name, 1.50 AS usd UNION ALL SELECT 'c', 22.25 ORDER BY name"
    assert costs(tmp_path, None, sql, "table").splitlines() == [
        "name    usd",
        "----  -----",
        "ab     1.50",
        "c     22.25",
    ]


def test_a_table_keeps_what_a_dataset_says_out_of_the_terminal(tmp_path: Path) -> None:
    shown = costs(tmp_path, None, "SELECT chr(27) || '[31mred' || chr(10) || chr(8238) AS text", "table")
    assert shown.splitlines()[2] == "\\x1b[31mred\\n\\u202e"


def test_a_table_cuts_a_long_text(tmp_path: Path) -> None:
    assert costs(tmp_path, None, "SELECT repeat('x', 200) AS text", "table").splitlines()[2] == "x" * 157 + "..."


def test_json_is_an_object_a_row(tmp_path: Path) -> None:
    answer = costs(tmp_path, None, "SELECT 1 AS a, NULL AS b, 'naïve' AS c", "json")
    assert json.loads(answer) == [{"a": 1, "b": None, "c": "naïve"}]


def test_json_keeps_money_exact(tmp_path: Path) -> None:
    # As a float the last digit would be lost.
    answer = costs(tmp_path, None, "SELECT 0.102640000000000001::DECIMAL(24, 18) AS usd", "json")
    assert json.loads(answer) == [{"usd": "0.102640000000000001"}]


def test_csv_is_a_header_and_the_rows(tmp_path: Path) -> None:
    answer = costs(tmp_path, None, "SELECT 'a,b' AS text, 2 AS n", "csv")
    assert list(csv.reader(io.StringIO(answer))) == [["text", "n"], ["a,b", "2"]]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", " =1+1", "\t=1"])
def test_a_cell_that_looks_like_a_formula_stays_text(tmp_path: Path, cell: str) -> None:
    [_, [written]] = csv.reader(io.StringIO(costs(tmp_path, None, f"SELECT '{cell}' AS text", "csv")))
    assert written == "'" + cell.replace("\t", "\\t")  # and what could drive a terminal is escaped


def test_a_negative_number_stays_a_number(tmp_path: Path) -> None:
    assert costs(tmp_path, None, "SELECT -0.5 AS saved", "csv").splitlines()[1] == "-0.5"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder of runs of which one cannot be read."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    return tmp_path


def test_no_figure_is_given_while_a_run_is_damaged(damaged: Path) -> None:
    words = r"bad/run\.json: .* do not end in a seal.*; move that run away, or leave it out with --leave-out-damaged"
    with pytest.raises(Corrupt, match=words):
        costs(damaged, None, "SELECT 1 AS a", "csv")


def test_a_damaged_run_can_be_left_out_and_is_named(damaged: Path) -> None:
    warnings: list[str] = []
    assert costs(damaged, None, "SELECT 1 AS a", "csv", warnings.append).splitlines() == ["a", "1"]
    [warning] = warnings
    assert warning.startswith(f"run bad is left out: {damaged}/bad/run.json: ")


def test_the_questions_can_be_listed_though_a_run_is_damaged(damaged: Path) -> None:
    assert "by-run" in costs(damaged, None, None, "table")
