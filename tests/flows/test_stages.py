"""Collapse, route and publish, of a whole job through the echo engine: nothing depends on where its tables are cut."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.answer import answer
from flows.limits import Limits
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import BadJob, parse_job
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import open_ledger
from serving.store.run import Run

# Near each other, and no veto holds between them.
NEAR = ["What is the name of the river by the town?", "What is the name of the river there by the town?"]
Rows = list[tuple[str, float]]


def run_job(folder: Path, rows: Rows, **sections: Any) -> Receipt:
    lines = (
        {
            "custom_id": f"r{row}",
            "body": {"messages": [{"role": "user", "content": prompt}], "temperature": temperature},
        }
        for row, (prompt, temperature) in enumerate(rows)
    )
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": "echo-model", "quantized": "echo-small"},
        "engine": {"kind": "echo"},
        "price": {"usd_per_hour": "3600"},
    }
    return answer(parse_job({**told, **sections}, "job"), folder / "runs", Silent())


def stage_rows(run: Run, table: str) -> list[dict[str, Any]]:
    manifest = run.stage({"members": run.collapsed, "routes": run.routed}[table])
    return [row for part in manifest.tables(table) for row in part.to_pylist()]


def exported(run: Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.export / f"{name}.jsonl").read_text().splitlines()]


# Prompts with their temperatures. "" is refused, and leaves a gap in the numbers; what is drawn at random stands alone.
ROWS = [("", 0.0), ("a", 1.0), ("a", 0.0), ("b", 0.0), ("", 0.0), ("a", 0.0), ("a", 1.0), ("b", 0.0), ("a", 0.0)]


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose tables are cut, and whose output is sorted, two rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.store.parts.ROWS_PER_PART", 2)
        patch.setattr("serving.store.export.WINDOW_ROWS", 2)
        return run_job(tmp_path_factory.mktemp("parts"), ROWS, route={"to_quantized": "all"}).run


def test_equal_rows_meet_across_the_parts_of_a_table(in_parts: Run) -> None:
    assert [(row["row"], row["answered_by"], row["source"]) for row in stage_rows(in_parts, "members")] == [
        (1, 1, "engine"),
        (2, 2, "engine"),
        (3, 3, "engine"),
        (5, 2, "exact"),
        (6, 6, "engine"),
        (7, 3, "exact"),
        (8, 2, "exact"),
    ]


def test_every_row_that_is_run_is_routed_once_with_a_reason(in_parts: Run) -> None:
    reason = "every prompt to the quantized lane"
    assert [(route["row"], route["lane"], route["rule"]) for route in stage_rows(in_parts, "routes")] == [
        (row, "quantized", reason) for row in (1, 2, 3, 6)
    ]


@pytest.mark.parametrize(("name", "rows"), [("results", [1, 2, 3, 5, 6, 7, 8]), ("errors", [0, 4])])
def test_the_output_is_in_the_order_of_the_input_however_many_rows_are_sorted_at_once(
    in_parts: Run, name: str, rows: list[int]
) -> None:
    assert [line["custom_id"] for line in exported(in_parts, name)] == [f"r{row}" for row in rows]


def test_the_output_is_dated_by_the_run_and_not_by_when_a_row_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    run = run_job(tmp_path, [("one", 0.0), ("two", 0.0)]).run
    created = {line["response"]["body"]["created"] for line in exported(run, "results")}
    assert created == {int(run.facts["created_unix_s"])}


def test_who_wants_the_same_bytes_of_two_runs_says_what_time_it_shall_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    run = run_job(tmp_path, [("one", 0.0)]).run
    assert exported(run, "results")[0]["response"]["body"]["created"] == 1700000000


def test_a_time_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BadJob, match="'yesterday': must be a time in whole seconds"):
        run_job(tmp_path, [("one", 0.0)])


@pytest.fixture
def semantic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job section that asks for near-duplicates, of an embedder that needs no model."""
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="double", files={}))
    monkeypatch.setattr("flows.stages.can_certify", lambda work, rows: True)  # of ever so few
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda folder: HashEmbedder())
    return {"semantic": True, "min_similarity": 0.9, "embedder": str(tmp_path / "embedder")}


def test_copies_follow_their_representative_to_a_near_duplicate(tmp_path: Path, semantic: dict[str, Any]) -> None:
    # Row 1 is a copy of row 0; row 2 is near them. The star stands where it saves most: row 2 saves two rows.
    rows = [(NEAR[0], 0.0), (NEAR[0], 0.0), (NEAR[1], 0.0)]
    run = run_job(tmp_path, rows, reuse=semantic).run
    assert [(row["answered_by"], row["source"]) for row in stage_rows(run, "members")] == [
        (2, "semantic"),
        (2, "semantic"),
        (2, "engine"),
    ]


def test_embedding_is_booked_once(tmp_path: Path, semantic: dict[str, Any]) -> None:
    receipt = run_job(tmp_path, [(NEAR[0], 0.0), (NEAR[1], 0.0)], reuse=semantic)
    run = receipt.run
    assert "near-duplicates did not pay: embedding cost $" in str(receipt)
    with open_ledger(tmp_path / "runs") as ledger:
        booked = ledger.execute("SELECT kind FROM overheads WHERE kind NOT IN ('start_up', 'shut_down')").fetchall()
    assert booked == [("embedding",)]
    assert list(run.meters.iterdir()) == []


def test_embedding_that_was_stopped_is_waste(
    tmp_path: Path, semantic: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "stop", lambda self: True)
    run = run_job(tmp_path, [(NEAR[0], 0.0), (NEAR[1], 0.0)], reuse=semantic).run
    with open_ledger(tmp_path / "runs") as ledger:
        booked = ledger.execute("SELECT kind, lane, usd > 0 FROM overheads").fetchall()
    assert booked == [("waste", "embedding", True)]
    assert not run.collapsed.exists()
    assert list(run.meters.iterdir()) == []
