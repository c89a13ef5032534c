"""`gristmill run` with the echo engine: what goes in comes out, once, with a bill that adds up."""

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.command import Place, digests, read_jsonl, row, rows

# Seven lines: two good ones, one of them twice under another id, and four that a strict reader refuses.
MIXED = [
    json.dumps(row("good-1", "one two")),
    json.dumps(row("good-2", "three four five")),
    '{"custom_id": "half a line", "body": {"mess',
    json.dumps(row("no-tokens", "x", max_tokens=0)),
    json.dumps(row("good-1-again", "one two")),
    json.dumps({"custom_id": "nothing-asked", "body": {}}),
    "[1, 2]",
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """A finished run over MIXED, and its receipt."""
    place = Place(tmp_path_factory.mktemp("mixed"))
    place.job()
    place.write("prompts.jsonl", "\n".join(MIXED) + "\n")
    done = place.run()
    assert (done.code, done.err) == (0, "")
    return place, done.out


def test_the_receipts_rows_add_up(mixed: tuple[Place, str]) -> None:
    assert "7 = 3 answered + 4 refused + 0 failed + 0 expired" in mixed[1]


def test_the_receipts_money_adds_up_to_the_ledgers_bill(mixed: tuple[Place, str]) -> None:
    place, receipt = mixed
    spent = re.search(r"spent +\$(\S+) = rows (\S+) \+ start-up (\S+)", receipt)
    assert spent is not None
    total, of_rows, of_start = (Decimal(text) for text in spent.groups())
    assert abs(total - (of_rows + of_start)) <= Decimal("0.000001")  # each is rounded to six digits
    (bill,) = place.ask("SELECT round(usd, 6)::VARCHAR AS usd FROM bills")
    assert Decimal(bill["usd"]) == total


def test_every_answer_is_its_own_prompts(mixed: tuple[Place, str]) -> None:
    assert mixed[0].answers() == {"good-1": "one two", "good-2": "three four five", "good-1-again": "one two"}


def test_results_are_in_the_order_of_the_input(mixed: tuple[Place, str]) -> None:
    assert [line["custom_id"] for line in mixed[0].results] == ["good-1", "good-2", "good-1-again"]


def test_an_exact_duplicate_costs_nothing_and_says_whose_answer_it_has(mixed: tuple[Place, str]) -> None:
    ours = mixed[0].results[2]["response"]["body"]["gristmill"]
    assert (ours["source"], ours["answered_by_row"], Decimal(ours["usd"])) == ("exact", 0, Decimal(0))


def test_refused_rows_stand_in_errors_with_file_line_and_reason(mixed: tuple[Place, str]) -> None:
    found = [(line["custom_id"], line["error"]["code"], line["error"]["line"]) for line in mixed[0].errors]
    assert found == [
        (None, "E_JSON", 3),
        ("no-tokens", "E_PARAM", 4),
        ("nothing-asked", "E_PROMPT", 6),
        (None, "E_ROW_TYPE", 7),
    ]
    assert {line["error"]["file"] for line in mixed[0].errors} == {"prompts.jsonl"}
    assert all(line["error"]["message"] and line["response"] is None for line in mixed[0].errors)


def test_a_second_run_changes_no_byte_and_starts_no_engine(mixed: tuple[Place, str]) -> None:
    place, receipt = mixed
    before = digests(place.only_run)
    again = place.gristmill("run", "job.toml")
    assert "starting" not in again.err
    assert digests(place.only_run) == before
    assert (again.code, again.out) == (0, receipt)


def test_settings_that_change_no_answer_do_not_make_another_run(mixed: tuple[Place, str]) -> None:
    place, receipt = mixed
    assert place.run("--set", "engine.echo_s=0.5", "--set", "budget.usd=9").out == receipt


def test_all_rows_refused_is_a_finished_run_without_an_answer(place: Place) -> None:
    place.prompts([{"custom_id": "a"}, {"custom_id": "b", "body": {"messages": []}}])
    done = place.run()
    assert "2 = 0 answered + 2 refused + 0 failed + 0 expired" in done.out
    assert "Traceback" not in done.err
    assert (place.results, [line["error"]["line"] for line in place.errors]) == ([], [1, 2])


def test_csv_with_a_template(place: Place) -> None:
    place.job(dataset='path = "reviews.csv"\nprompt = "Classify: {{text}}"\nid = "key"')
    place.write("reviews.csv", 'key,text\nr1,good\nr2,"bad, very\nbad"\n')
    assert place.run().code == 0
    assert place.answers() == {"r1": "Classify: good", "r2": "Classify: bad, very bad"}


def test_a_csv_row_over_two_lines_is_named_by_its_first(place: Place) -> None:
    place.job(dataset='path = "reviews.csv"\nprompt = "Classify: {{text}}"\nid = "key"')
    place.write("reviews.csv", 'key,text\nr1,good\n"","bad, very\nbad"\n')
    place.run()
    assert [line["error"]["line"] for line in place.errors] == [3]


def test_parquet_with_a_template(place: Place) -> None:
    place.job(dataset='path = "reviews.parquet"\nprompt = "{{n}} stars: {{text}}"\nid = "key"')
    table = pa.table({"key": ["r1", "r2"], "text": ["good", None], "n": [5, 1]})
    pq.write_table(table, place.folder / "reviews.parquet")
    assert place.run().code == 0
    assert place.answers() == {"r1": "5 stars: good"}
    assert [(line["custom_id"], line["error"]["line"]) for line in place.errors] == [("r2", 2)]


def test_plain_jsonl_with_prompt_and_settings(place: Place) -> None:
    place.prompts([{"id": 7, "prompt": "one two three", "max_tokens": 2}, {"prompt": "four"}])
    assert place.run().code == 0
    # The second row has no id: it is named by its place, counted from 0.
    assert place.answers() == {"7": "one two", "row-1": "four"}


def test_a_glob_reads_its_files_in_order_and_names_each(place: Place) -> None:
    place.job(dataset='path = "part-*.jsonl"')
    place.prompts([row("b", "from the second")], "part-2.jsonl")
    place.prompts([row("a", "from the first"), {"custom_id": "bad"}], "part-1.jsonl")
    assert place.run().code == 0
    assert [line["custom_id"] for line in place.results] == ["a", "b"]
    assert [(line["error"]["file"], line["error"]["line"]) for line in place.errors] == [("part-1.jsonl", 2)]


@pytest.mark.parametrize("name", ["it's another.jsonl", "data[1].jsonl", "\U0001f600.jsonl"])
def test_input_is_read_in_place_of_the_jobs_path(place: Place, name: str) -> None:
    place.prompts([row("other", "from elsewhere")], name)
    done = place.run("--input", name)
    assert (done.code, done.err) == (0, "")
    assert place.answers() == {"other": "from elsewhere"}


def test_set_lays_over_the_job_file_and_makes_another_run(mixed: tuple[Place, str], tmp_path: Path) -> None:
    shutil.copytree(mixed[0].folder, tmp_path, dirs_exist_ok=True)
    place = Place(tmp_path)
    (first,) = place.runs
    assert place.run("--set", "sampling.max_tokens=2").code == 0
    (second,) = set(place.runs) - {first}
    answers = [
        line["response"]["body"]["choices"][0]["message"] for line in read_jsonl(second / "export/results.jsonl")
    ]
    assert [message["content"] for message in answers] == ["one two", "three four", "one two"]


@pytest.mark.parametrize("folder", ["quote's and space", "brackets [1]"])
def test_a_working_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    place = Place(tmp_path / folder)
    place.folder.mkdir()
    place.job()
    place.prompts(rows(3))
    done = place.run()
    assert (done.code, done.err) == (0, "")
    assert len(place.results) == 3


def test_a_run_folder_is_for_its_owner_alone(mixed: tuple[Place, str]) -> None:
    run = mixed[0].only_run
    open_to_others = [file for file in (run, *run.rglob("*")) if file.stat().st_mode & 0o077]
    assert open_to_others == []


def test_a_row_drawn_at_random_is_never_answered_by_another(place: Place) -> None:
    place.prompts([row("a", "same", temperature=1.0), row("b", "same", temperature=1.0)])
    place.run()
    assert [line["response"]["body"]["gristmill"]["source"] for line in place.results] == ["engine", "engine"]
