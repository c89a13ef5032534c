"""The export: OpenAI Batch output, in the order of the input, the same bytes each time."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from serving.store.export import export, open_rows
from serving.store.ledger import open_ledger
from serving.store.run import Run, find_run
from serving.store.segments import read_segments


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def exported(runs: Path, run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with open_ledger(runs) as ledger:
        results, errors = export(run, ledger)
    return lines(results), lines(errors)


Exported = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def result(exported: Exported, custom_id: str) -> dict[str, Any]:
    [found] = [line for line in exported[0] if line["custom_id"] == custom_id]
    return found


def test_answers_stand_in_the_order_of_the_input(exported: Exported) -> None:
    assert [line["custom_id"] for line in exported[0]] == ["a", "b", "a-again", "c"]


def test_errors_stand_in_the_order_of_the_input(exported: Exported) -> None:
    # The last row is not JSON, so that its id is not known.
    assert [line["custom_id"] for line in exported[1]] == ["f", "refused", None]


def test_a_result_has_the_fields_of_a_batch_output(exported: Exported, run: Run) -> None:
    line = result(exported, "a")
    assert line.keys() == {"id", "custom_id", "response", "error"}
    assert line["error"] is None
    assert line["id"] == f"{run.run_id}-0"
    assert line["response"].keys() == {"status_code", "request_id", "body"}
    assert line["response"]["status_code"] == 200


def test_a_chat_answer_is_a_chat_completion(exported: Exported) -> None:
    body = result(exported, "a")["response"]["body"]
    message = {"role": "assistant", "content": "the cat sat", "refusal": None}
    assert body["object"] == "chat.completion"
    assert body["choices"] == [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}]
    assert isinstance(body["created"], int)


def test_a_completion_answer_is_a_text_completion(exported: Exported) -> None:
    body = result(exported, "c")["response"]["body"]
    # "one two three" at max_tokens 2
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "finish_reason": "length", "text": "one two", "logprobs": None}]


def test_usage_adds_up(exported: Exported) -> None:
    usage = result(exported, "c")["response"]["body"]["usage"]
    # three words in, two out
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 2, 5)


def test_an_answer_says_where_it_came_from(exported: Exported) -> None:
    ours = result(exported, "a-again")["response"]["body"]["gristmill"]
    assert (ours["source"], ours["answered_by_row"], float(ours["usd"])) == ("exact", 0, 0.0)


def test_a_failed_row_has_its_reason_and_its_place(exported: Exported, run: Run) -> None:
    [line] = [line for line in exported[1] if line["custom_id"] == "f"]
    assert (line["id"], line["response"]) == (f"{run.run_id}-3", None)
    assert (line["error"]["code"], line["error"]["line"]) == ("E_ECHO", 4)


def test_a_refused_row_has_its_reason_and_its_place(exported: Exported) -> None:
    [line] = [line for line in exported[1] if line["custom_id"] == "refused"]
    assert (line["error"]["code"], line["error"]["line"]) == ("E_MESSAGES", 6)
    assert line["error"]["file"].endswith("in.jsonl")


def test_every_row_stands_in_one_of_the_two_files(exported: Exported) -> None:
    places = [int(line["id"].rpartition("-")[2]) for line in (*exported[0], *exported[1])]
    assert sorted(places) == list(range(7))


def test_the_second_export_has_the_bytes_of_the_first(runs: Path, run: Run) -> None:
    before = {file: file.read_bytes() for file in run.export.iterdir()}
    with open_ledger(runs) as ledger:
        export(run, ledger)
    assert {file: file.read_bytes() for file in run.export.iterdir()} == before


def test_a_row_without_an_answer_is_expired(runs: Path, run: Run) -> None:
    for segment in read_segments(run.segments):
        segment.manifest.unlink()
    with open_ledger(runs) as ledger:
        results, errors = export(run, ledger)
    assert lines(results) == []
    assert [line["error"]["code"] for line in lines(errors)] == ["batch_expired"] * 5 + ["E_MESSAGES", "E_JSON"]


def test_a_run_of_another_folder_is_not_exported_as_empty(run: Run, tmp_path: Path) -> None:
    # What `gristmill --runs here export there/run-id` does.
    before = (run.export / "results.jsonl").read_bytes()
    try:
        with open_ledger(tmp_path / "here") as ledger:
            export(find_run(tmp_path / "here", str(run.folder)), ledger)
    except LookupError:
        pass  # to refuse is as good
    assert (run.export / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(("settled", "left"), [((0, 1, 2), 0), ((0, 1), 1), ((0, 1, 1), 1), ((), 3)])
def test_a_row_is_open_until_it_is_settled_itself(tmp_path: Path, settled: tuple[int, ...], left: int) -> None:
    with duckdb.connect(":memory:") as ledger:
        ledger.execute("CREATE TABLE requests AS SELECT 'run' AS run_id, range AS row FROM range(3)")
        ledger.execute("CREATE TABLE rows AS SELECT 'run' AS run_id, unnest($1::BIGINT[]) AS row", [list(settled)])
        assert open_rows(Run(tmp_path / "run"), ledger) == left
