"""Members: which rows an answer goes to, and which a lane has yet to run."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from flows.members import Members, done_rows, pending_rows
from flows.open import Work
from serving.records import Charge, Choice, Endpoint, Failure, Outcome, Settled, Source, Usage
from serving.store.segments import Span
from tests.flows.conftest import Open

ANSWERED = Settled(
    0, "r0", Endpoint.CHAT, Outcome.ANSWERED, "full", "echo-model", Source.ENGINE, 0, (Choice("x", "stop"),),
    Usage(1, 1), Charge(0.0, Decimal(0)),
)  # fmt: skip
FAILED = replace(ANSWERED, outcome=Outcome.FAILED, choices=(), failure=Failure("E_X", "no"))


def settle(work: Work, *rows: Settled) -> None:
    work.writer.chain("full").seal(Span.of(rows, []))


def pending(work: Work, lane: str = "full") -> list[int]:
    return [int(row) for row in pending_rows(work, work.job.lanes[lane])]


def test_an_answer_goes_to_its_row_and_to_all_that_equal_it(opened: Open) -> None:
    with opened("same", "other", "same", "same") as work:
        served = Members.of(work).served_by(0)
    assert [(member.row, member.custom_id, member.source) for member in served] == [
        (0, "r0", Source.ENGINE),
        (2, "r2", Source.EXACT),
        (3, "r3", Source.EXACT),
    ]
    assert {member.endpoint for member in served} == {Endpoint.CHAT}


def test_a_row_that_another_answers_serves_none(opened: Open) -> None:
    with opened("same", "other", "same") as work:
        assert Members.of(work).served_by(2) == []


def test_a_row_is_named_by_its_place_though_rows_before_it_were_refused(opened: Open) -> None:
    with opened("", "one", "", "two") as work:
        members = Members.of(work)
    assert [members.named(row, Source.ENGINE).custom_id for row in (1, 3)] == ["r1", "r3"]


def test_a_near_duplicate_is_served_as_one(opened: Open, near: dict[str, Any]) -> None:
    with opened("is the sky blue", "is sky blue", **near) as work:
        assert [member.source for member in Members.of(work).served_by(0)] == [Source.ENGINE, Source.SEMANTIC]


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


def test_a_near_duplicate_of_a_failed_row_is_pending(opened: Open, near: dict[str, Any]) -> None:
    with opened("is the sky blue", "is sky blue", **near) as work:
        assert pending(work) == [0]
        settle(work, FAILED)
        assert pending(work) == [1]
        settle(work, replace(FAILED, row=1, answered_by=1))
        assert pending(work) == []


def test_a_near_duplicate_is_pending_in_the_lane_of_the_row_that_failed(opened: Open, near: dict[str, Any]) -> None:
    with opened("is the sky blue", "is sky blue", **near, route={"to_quantized": "all"}) as work:
        settle(work, FAILED)
        assert (pending(work, "full"), pending(work, "quantized")) == ([], [1])


def test_a_job_of_refused_rows_alone_has_nothing_pending(opened: Open) -> None:
    with opened("", "") as work:
        assert (pending(work), done_rows(work).tolist()) == ([], [])
