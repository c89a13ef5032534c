"""Settlement: rows and what they cost become durable in one step; what was spent beside them is booked once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import pytest

from flows import settlement as settlement_module
from flows.members import Members
from flows.open import Work
from flows.settlement import Settlement, book_the_past, usd_of_usage
from serving.records import Choice, Completion, EngineDied, Failure, Load, Overhead, Rates, Request, Usage
from serving.store.durable import DISK, DiskFault
from serving.store.meter import Meter
from serving.store.schemas import requests_from
from serving.store.segments import durable_outcomes, read_rows, read_segments
from serving.store.writer import Superseded
from tests.flows.conftest import Open

PROMPTS = ("one", "two", "three", "four")
BY_TOKENS = {"price": {"input_usd_per_mtok": "1", "output_usd_per_mtok": "2"}}


class Broken(BaseException):
    """As a kill would, it ends everything on the spot."""


@dataclass
class Showing:
    """An engine that shows these rates, and is fed by hand."""

    rates: Rates | None = None
    load: Load | None = None

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        raise AssertionError("it is fed by hand")


@contextmanager
def settling(work: Work, rates: Rates | None = None, overheads: tuple[Overhead, ...] = ()) -> Iterator[Settlement]:
    """A settlement of the full lane to which every admitted row has been fed."""
    lane = work.job.lanes["full"]
    with work.metered(lane.name) as meter:
        made = Settlement(work, lane, Showing(rates), meter, Members.of(work), list(overheads))
        for _ in made.fed(requests_of(work)):
            pass
        yield made


def requests_of(work: Work) -> Iterator[Request]:
    for table in work.run.stage(work.run.admitted).tables("requests"):
        yield from requests_from(table)


def answered(row: int, meter: Meter | None = None) -> Completion:
    """Three prompt tokens, of which one was cached, and two output tokens."""
    if meter is not None:
        meter.count(2, 2)
    return Completion(row, (Choice("x", "stop"),), Usage(3, 2, 1))


def failed(row: int) -> Completion:
    return Completion(row, failure=Failure("E_X", "no"))


def rows_of(work: Work) -> list[dict[str, Any]]:
    return [row for table in read_rows(work.run.segments) for row in table.to_pylist()]


def waste(work: Work) -> list[Overhead]:
    lines = (line for segment in read_segments(work.run.segments) for line in segment.overheads)
    return [line for line in lines if line.kind == "waste"]


def killed(opened: Open, then: Callable[[Work], None], *prompts: str, **sections: Any) -> None:
    """A process that did this and was killed."""

    def kill() -> None:
        with opened(*prompts, **sections) as work:
            then(work)
            raise Broken

    with pytest.raises(Broken):
        kill()


# When rows become durable.


def test_enough_rows_become_durable_at_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_module, "COMMIT_ROWS", 2)
    with opened(*PROMPTS) as work, settling(work) as made:
        seen = []
        for row in range(3):
            made.add(answered(row))
            seen.append(durable_outcomes(work.run.segments)["answered"])
        assert seen == [0, 2, 2]


def test_no_row_waits_for_others_for_long(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_module, "COMMIT_S", 0.0)
    with opened(*PROMPTS) as work, settling(work) as made:
        made.add(answered(0))
        assert durable_outcomes(work.run.segments)["answered"] == 1


@pytest.mark.parametrize(("setting", "value"), [("SEAL_ROWS", 2), ("SEAL_S", 0.0)])
def test_enough_rows_or_time_make_a_segment(
    opened: Open, monkeypatch: pytest.MonkeyPatch, setting: str, value: float
) -> None:
    monkeypatch.setattr(settlement_module, "COMMIT_ROWS", 2)
    monkeypatch.setattr(settlement_module, setting, value)
    with opened(*PROMPTS) as work, settling(work) as made:
        made.add(answered(0))
        made.add(answered(1))
        assert [row["row"] for row in rows_of(work)] == [0, 1]


def test_the_end_seals_what_is_left(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_module, "COMMIT_ROWS", 2)
    with opened(*PROMPTS) as work, settling(work) as made:
        for row in range(4):
            made.add(answered(row))
        assert rows_of(work) == []
        made.finish()
        assert [row["row"] for row in rows_of(work)] == [0, 1, 2, 3]
        assert not made.meter.path.exists()


def test_an_engine_that_did_nothing_leaves_nothing(opened: Open) -> None:
    with opened(*PROMPTS) as work:
        with settling(work) as made:
            made._in_flight.clear()
            made.finish()
        assert read_segments(work.run.segments) == []
        assert not made.meter.path.exists()


# Held to its promise.


def test_an_answer_to_a_row_that_was_not_asked_is_the_death_of_the_engine(opened: Open) -> None:
    with opened(*PROMPTS) as work, settling(work) as made:
        made.add(answered(0))
        for row in (0, 77):
            with pytest.raises(EngineDied, match=f"answered row {row}, which it was not asked, or was asked once"):
                made.add(answered(row))


def test_an_engine_is_done_when_it_took_all_and_answered_all(opened: Open) -> None:
    with opened("one") as work, settling(work) as made:
        assert not made.complete
        made.add(answered(0))
        assert made.complete


def test_an_engine_that_was_not_fed_all_is_not_done(opened: Open) -> None:
    with opened(*PROMPTS) as work, work.metered("full") as meter:
        made = Settlement(work, work.job.lanes["full"], Showing(), meter, Members.of(work), [])
        next(made.fed(requests_of(work)))
        made.add(answered(0))
        assert not made.complete


def test_an_answer_counts_for_each_row_that_shares_it(opened: Open) -> None:
    with opened("same", "same", "other") as work, settling(work) as made:
        assert (made.add(answered(0)), made.add(answered(2))) == (2, 1)


# Money.


def test_what_rows_cost_and_the_overheads_before_them_are_one_step(opened: Open) -> None:
    start_up = Overhead("start_up", "full", 1.0, Decimal(1))
    with opened("one", "two") as work, settling(work, overheads=(start_up,)) as made:
        time.sleep(0.02)
        made.add(answered(0))
        made.add(answered(1))
        made.finish()
        [segment] = read_segments(work.run.segments)
        assert segment.overheads == [start_up]
        # A dollar a second, shared to the last digit.
        assert Decimal(segment.facts["usd"]) == round(Decimal(segment.facts["seconds"]), 12)
        assert work.run.spent_usd() == Decimal(segment.facts["usd"]) + 1
        assert work.limits.running_usd == pytest.approx(work.run.spent_usd(), abs=Decimal("0.1"))


def test_what_is_durable_is_no_longer_in_flight(opened: Open) -> None:
    with opened("one", "two", **BY_TOKENS, budget={"usd": "1"}) as work, settling(work) as made:
        for row in (0, 1):
            made.add(answered(row))
        # 3 prompt tokens at a millionth, 2 output tokens at two millionths.
        assert sum(work.limits._reserved_usd.values()) == 2 * Decimal("0.000007")
        made.commit()
        assert work.limits._reserved_usd == {}
        assert work.limits.running_usd == 2 * Decimal("0.000007")


def test_tokens_cost_nothing_where_time_is_billed(opened: Open) -> None:
    with opened("one") as work:
        assert usd_of_usage(work, "full", Usage(3, 2)) == 0


def test_how_full_an_engine_was_is_kept_from_one_commit_to_the_next(opened: Open) -> None:
    with opened("one", "two") as work:
        with settling(work) as made:
            assert isinstance(made.engine, Showing)
            for row, decode_s in enumerate((2.0, 5.0)):
                made.engine.load = Load(decode_s, 10 * decode_s, kv_s=0.5 * decode_s)
                made.add(answered(row))
                made.seal()
        loads = [segment.facts["load"] for segment in read_segments(work.run.segments) if segment.facts["rows"]]
    assert loads == [asdict(Load(2.0, 20.0, kv_s=1.0)), asdict(Load(3.0, 30.0, kv_s=1.5))]


def test_the_rates_that_an_engine_shows_are_kept(opened: Open) -> None:
    with opened("one") as work, settling(work, rates=Rates(0.1, 0.2)) as made:
        made.add(answered(0))
        made.finish()
        assert read_segments(work.run.segments)[0].facts["rates"] == {
            "prefill_s_per_token": 0.1,
            "decode_s_per_token": 0.2,
        }


def test_a_shared_answer_is_paid_by_the_row_that_was_run(opened: Open) -> None:
    with opened("same", "same", **BY_TOKENS) as work, settling(work) as made:
        made.add(answered(0))
        made.finish()
        assert [row["usd"] for row in rows_of(work)] == [Decimal("0.000007"), 0]


def test_a_failure_is_shared_by_equal_rows_and_not_by_near_duplicates(opened: Open, near: dict[str, Any]) -> None:
    texts = ("is the sky blue", "is sky blue", "is the sky blue", "is sky blue", "is sky blue")
    with opened(*texts, **near) as work, settling(work) as made:
        assert (made.add(failed(0)), made.add(answered(1))) == (2, 3)
        made.finish()
        found = {row["row"]: (row["source"], row["outcome"]) for row in rows_of(work)}
        assert [found[row] for row in (0, 2)] == [("engine", "failed"), ("exact", "failed")]
        assert [found[row] for row in (1, 3, 4)] == [("engine", "answered"), *[("exact", "answered")] * 2]


# Waste.


def test_tokens_of_requests_that_were_not_let_finish_are_waste(opened: Open) -> None:
    with opened("one", "two") as work, settling(work) as made:
        made.add(answered(0, made.meter))
        made.meter.count(10, 5)  # of row 1, which is cut off
        made.finish()
        [line] = waste(work)
        assert (line.tokens, line.lane, line.engine) == (15, "full", made.meter.name)
        assert (line.seconds, line.usd) == (0.0, Decimal(0))  # the time is in what row 0 cost


def test_tokens_that_were_durable_before_are_no_waste_either(opened: Open) -> None:
    with opened("one", "two", "three") as work, settling(work) as made:
        made.add(answered(0, made.meter))
        made.commit()
        made.add(answered(1, made.meter))
        made.meter.count(10, 5)
        made.finish()
        assert [line.tokens for line in waste(work)] == [15]


def test_an_engine_that_finished_all_wasted_nothing(opened: Open) -> None:
    with opened("one", "two") as work, settling(work) as made:
        for row in (0, 1):
            made.add(answered(row, made.meter))
        made.finish()
        assert waste(work) == []


def test_time_in_which_nothing_was_finished_is_waste(opened: Open) -> None:
    with opened("one") as work, settling(work) as made:
        time.sleep(0.12)
        made.finish()
        [line] = waste(work)
        assert 0.12 <= line.seconds < 2
        assert line.usd == pytest.approx(Decimal(line.seconds), abs=Decimal("0.000001"))


def test_the_moment_that_an_engine_takes_to_end_is_no_waste(opened: Open) -> None:
    with opened("one") as work, settling(work) as made:
        made.add(answered(0))
        made.commit()
        made.finish()
        assert waste(work) == []


# Faults.


def test_what_could_not_be_committed_is_not_tried_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("one", "two") as work, settling(work) as made:
        made.add(answered(0))
        with monkeypatch.context() as patch:

            def full(descriptor: int, data: bytes) -> int:
                raise OSError(28, "No space left on device")

            patch.setattr(DISK, "write", full)
            with pytest.raises(DiskFault):
                made.commit()
        made.finish()
        assert (rows_of(work), durable_outcomes(work.run.segments).total()) == ([], 0)
        assert made.meter.path.exists()  # the next writer finds what it shows


def test_a_settlement_that_was_superseded_books_nothing_more(opened: Open) -> None:
    def settle() -> None:
        with opened("one") as work, settling(work) as made:
            made.add(answered(0))
            with work.run.writer(take_over=True):
                pass
            try:
                made.commit()
            finally:
                made.finish()
                assert rows_of(work) == []

    with pytest.raises(Superseded):
        settle()


# The past.


def test_what_a_killed_process_spent_and_lost_becomes_a_line_once(opened: Open) -> None:
    def lose(work: Work) -> None:
        with settling(work) as made:
            made.add(answered(0, made.meter))
            made.commit()  # durable
            made.meter.count(10, 5)  # lost
            time.sleep(0.12)
            work.asked_to_stop()

    killed(opened, lose, "one", "two")
    for _ in range(2):
        with opened("one", "two") as work:
            [line] = waste(work)
            assert (line.tokens, line.lane, line.engine) == (15, "full", "0001-full-001")
            assert 0.1 < line.seconds < 2
            assert [row["row"] for row in rows_of(work)] == [0]
            assert work.limits.running_usd == work.run.spent_usd() >= line.usd
            assert list(work.run.meters.iterdir()) == []


def test_a_process_that_was_killed_before_it_spent_anything_leaves_no_line(opened: Open) -> None:
    def begin(work: Work) -> None:
        with settling(work):
            pass

    killed(opened, begin, "one")
    with opened("one") as work:
        assert (waste(work), list(work.run.meters.iterdir())) == ([], [])


def test_a_loss_that_was_booked_by_a_process_that_was_killed_next_is_not_booked_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(work: Work) -> None:
        with settling(work) as made:
            made.meter.count(10, 5)

    def kill(file: object) -> None:
        raise Broken

    killed(opened, lose, "one")
    with monkeypatch.context() as patch:
        patch.setattr(settlement_module, "remove", kill)  # after the line is durable, before the meter is gone
        with pytest.raises(Broken), opened("one"):
            pass
    with opened("one") as work:
        assert [line.tokens for line in waste(work)] == [15]


def test_what_a_stage_has_booked_is_not_booked_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("one") as work:
        meter = work.writer.meter("embedding")
        meter.count(10, 5)
        monkeypatch.setattr(type(work.run), "has_booked", lambda run, engine: engine == meter.name)
        from serving.store.meter import read_meter
        from serving.store.writer import Loss

        work.writer.losses = [Loss(meter.name, "embedding", read_meter(meter.path))]
        book_the_past(work)
        assert waste(work) == []
        assert not meter.path.exists()
