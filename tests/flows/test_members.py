"""Members: which rows an answer goes to, and which a lane has yet to run."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.answer import answer
from flows.members import SOURCES, Members, done_rows, pending_rows
from flows.names import ENDPOINTS, Names
from flows.open import Work
from flows.progress import Silent
from serving.config import parse_job
from serving.records import Choice, Endpoint, Failure, Outcome, Source, Usage
from serving.store.durable import DiskFault
from tests.flows.conftest import Open
from tests.settled import Settled, span_of

ANSWERED = Settled(0, "r0", 0, Usage(1, 1), choices=(Choice("x", "stop"),))
FAILED = replace(ANSWERED, outcome=Outcome.FAILED, choices=(), failure=Failure("E_X", "no"))


def settle(work: Work, *rows: Settled) -> None:
    work.writer.chain("full").seal(span_of(rows))


def pending(work: Work, lane: str = "full") -> list[int]:
    return [int(row) for row in pending_rows(work, work.job.lanes[lane])]


def served(members: Members, *rows: int) -> list[tuple[int, int, Source]]:
    """Of each row that these answer: itself, whose answer it gets, and how."""
    found = members.served_by(np.array(rows, np.int64))
    answers = np.array(rows, np.int64)[found.answer]
    counted = sum(members.count(row) for row in rows)
    assert counted == len(found.row)
    return [
        (row, answer, SOURCES[source])
        for row, answer, source in zip(found.row.tolist(), answers.tolist(), found.source.tolist(), strict=True)
    ]


def test_an_answer_goes_to_its_row_and_to_all_that_equal_it(opened: Open) -> None:
    with opened("same", "other", "same", "same") as work:
        members = Members.of(work)
    assert served(members, 0) == [(0, 0, Source.ENGINE), (2, 0, Source.EXACT), (3, 0, Source.EXACT)]
    assert served(members, 1, 0) == [(1, 1, Source.ENGINE), *served(members, 0)]


def test_a_row_is_named_by_its_place_though_rows_before_it_were_refused(opened: Open) -> None:
    with opened("", "one", "", "two") as work:
        custom_ids, endpoints = Members.of(work).named(np.array([3, 1]))
    assert custom_ids.to_pylist() == ["r3", "r1"]
    assert {ENDPOINTS[place] for place in endpoints.tolist()} == {Endpoint.CHAT}


def test_names_are_read_from_many_parts_in_any_order(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one read, and of one for each, where they lie far apart."""
    monkeypatch.setattr("serving.store.parts.ROWS_PER_PART", 3)
    with opened(*(str(number) * 3 if number % 4 else "" for number in range(20))) as work:
        names = Names.of(work)
        rows = np.array([19, 1, 10, 2, 18])
        together = names.named(rows)[0].to_pylist()
        monkeypatch.setattr("flows.names.READ_BYTES", 0)
        assert names.named(rows)[0].to_pylist() == together == [f"r{row}" for row in rows]
        assert names.named(rows[:0])[0].to_pylist() == []


@pytest.mark.parametrize("lost", ["the end", "the middle"])
def test_a_name_that_the_disk_lost_is_told_and_never_given_to_a_row(opened: Open, lost: str) -> None:
    with opened("one", "two", "three") as work:
        names = Names.of(work)
    at, size = int(names.begins_at[0]), int(names.slot_bytes[0])
    if lost == "the end":
        os.truncate(names.descriptor, at + 2 * size - 1)
    else:
        os.pwrite(names.descriptor, bytes(size), at + size)
    assert names.named(np.array([0]))[0].to_pylist() == ["r0"]
    with pytest.raises(DiskFault, match="check it"):
        names.named(np.array([0, 1]))


def test_an_id_is_kept_whole_whatever_it_is_written_in(tmp_path: Path) -> None:
    ids = ["é" * 64, "x", "日本語", "😀" * 64, "row-0"]
    lines = [
        json.dumps({"id": custom_id, "prompt": "same" if place else "other"}) for place, custom_id in enumerate(ids)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    settings = {"dataset": {"path": str(tmp_path / "in.jsonl")}, "model": {"full": "echo-model"}}
    settings |= {"engine": {"kind": "echo"}, "price": {"usd_per_hour": "1"}}
    receipt = answer(parse_job(settings, "job"), tmp_path / "runs", Silent())
    exported = (receipt.run.export / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in exported] == ids


def test_a_near_duplicate_that_is_run_answers_those_that_equal_it(opened: Open, near: dict[str, Any]) -> None:
    with opened("is the sky blue", "is sky blue", "is sky blue", **near) as work:
        members = Members.of(work)
    assert served(members, 0) == [(0, 0, Source.ENGINE)]
    assert served(members, 1) == [(1, 1, Source.ENGINE), (2, 1, Source.EXACT)]


def test_no_answer_goes_to_no_row(opened: Open) -> None:
    with opened("one") as work:
        assert served(Members.of(work)) == []


def test_a_lane_has_its_own_representatives_to_run(opened: Open) -> None:
    with opened("same", "other", "same") as work:
        assert (pending(work, "full"), pending(work, "quantized")) == ([0, 1], [])
    with opened("same", "other", "same", route={"to_quantized": "all"}) as work:
        assert (pending(work, "full"), pending(work, "quantized")) == ([], [0, 1])


def test_what_is_settled_is_not_pending(opened: Open) -> None:
    with opened("same", "other", "same") as work:
        settle(work, ANSWERED, replace(ANSWERED, row=2, source=Source.EXACT))
        assert pending(work) == [1]
        assert done_rows(work).tolist() == [0, 2]


def test_near_duplicates_too_few_for_a_certificate_are_pending_in_the_full_lane(
    opened: Open, near: dict[str, Any]
) -> None:
    with opened("is the sky blue", "is sky blue", **near, route={"to_quantized": "all"}) as work:
        assert (pending(work, "full"), pending(work, "quantized")) == ([0, 1], [])
        settle(work, FAILED)
        assert pending(work) == [1]
        settle(work, replace(FAILED, row=1, answered_by=1))
        assert pending(work) == []


def test_a_job_of_refused_rows_alone_has_nothing_pending(opened: Open) -> None:
    with opened("", "") as work:
        assert (pending(work), done_rows(work).tolist()) == ([], [])
