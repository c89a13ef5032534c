"""Writers: one at a time, under an epoch of its own. Taking over keeps all that was durable, once, and finds losses."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from serving.records import Overhead, Usage
from serving.store import durable, writer
from serving.store.durable import DISK, DiskFault
from serving.store.meter import Spent
from serving.store.sealed import read_sealed
from serving.store.segments import (
    Span,
    durable_outcomes,
    journals,
    read_ends,
    read_rows,
    read_segments,
    verify_segments,
)
from serving.store.writer import Loss, Superseded, Writer, holder_of, last_epoch, take, taken_file
from tests.settled import Settled, span_of


class Broken(BaseException):
    """As a kill would, it ends everything on the spot."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "segments"


@pytest.fixture
def span(settled: Settled) -> Callable[..., Span]:
    """Rows of these numbers, of 3 prompt tokens, one of them cached, and 2 output tokens each."""

    def of(*rows: int, engine: str | None = None, **rest: Any) -> Span:
        settle = [replace(settled, row=row, answered_by=row, usage=Usage(3, 2, 1)) for row in rows]
        return span_of(settle, rest.pop("overheads", []), lane="full", engine=engine, **rest)

    return of


Settle = Callable[..., Span]


def taken(folder: Path) -> Writer:
    return take(folder, folder.parent / "meters", {"noted": 1})


def rows_in(folder: Path) -> list[int]:
    return sorted(row for table in read_rows(folder, ["row"]) for row in table["row"].to_pylist())


def run_when(monkeypatch: pytest.MonkeyPatch, call: str, name: str, then: Callable[[], object]) -> None:
    """Do something just before a call of the disk that is about a file of that name, once."""
    before, pending = getattr(DISK, call), [then]

    def called(path: Path, *rest: Any) -> Any:
        if path.name.startswith(name) and pending:
            pending.pop()()
        return before(path, *rest)

    monkeypatch.setattr(DISK, call, called)


# Epochs.


def test_each_writer_has_an_epoch_above_all_before(folder: Path) -> None:
    assert [taken(folder).epoch for _ in range(3)] == [1, 2, 3]
    assert last_epoch(folder) == 3


def test_nobody_holds_a_run_that_nobody_took(folder: Path) -> None:
    assert (last_epoch(folder), holder_of(folder)) == (0, None)


def test_a_writer_says_who_it_is(folder: Path) -> None:
    taken(folder)
    holder = holder_of(folder)
    assert holder is not None
    assert holder.keys() == {"epoch", "pid", "host", "since_unix_s", "noted"}


def test_two_that_take_a_run_at_the_same_moment_do_not_share_an_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both have seen the same last epoch, as where a lock was put in the place of another.
    quick: list[int] = []
    run_when(monkeypatch, "open", ".writer-0001.json", lambda: quick.append(taken(folder).epoch))
    assert {taken(folder).epoch, *quick} == {1, 2}


def test_two_that_take_a_run_at_the_same_moment_say_the_same_of_the_end_of_the_one_before(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one before was not told yet, and begins a journal when the first of them has said where it stopped.
    chain = taken(folder).chain("full")
    chain.seal(span(0))
    said = []

    def first() -> None:
        taken(folder)
        said.append((folder / "writer-0001.ended.json").read_bytes())
        (folder / "0001-late-000000.journal").touch()

    run_when(monkeypatch, "open", ".writer-0001.ended.json", first)
    taken(folder)
    assert said == [(folder / "writer-0001.ended.json").read_bytes()]


# Being taken over.


def test_a_writer_that_was_superseded_is_told_at_its_next_commit_by_whom(folder: Path, span: Settle) -> None:
    stale = taken(folder)
    chain = stale.chain("full")
    chain.commit(span(0))
    taken(folder)
    holder = holder_of(folder)
    assert holder is not None
    for step in (lambda: chain.commit(span(1)), lambda: chain.seal(span(1)), stale.check):
        with pytest.raises(Superseded, match=f"was taken over by process {holder['pid']} on {holder['host']}"):
            step()
    assert rows_in(folder) == [0]


def test_a_writer_that_was_superseded_two_times_over_is_told_too(folder: Path) -> None:
    stale = taken(folder)
    taken(folder)
    taken(folder)
    with pytest.raises(Superseded):
        stale.check()


def test_a_segment_that_a_superseded_writer_adds_after_its_end_does_not_count_and_is_dropped(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = taken(folder).chain("full")
    chain.seal(span(0))
    run_when(monkeypatch, "open", ".0001-full-000001.json", lambda: taken(folder))  # while it seals, it is taken over
    with pytest.raises(Superseded):
        chain.seal(span(1))
    assert (folder / "0001-full-000001.json").exists()
    assert rows_in(folder) == [0]
    taken(folder)
    assert not list(folder.glob("0001-full-000001.*"))
    assert rows_in(folder) == [0]


def test_a_writer_whose_half_written_file_its_successor_dropped_adds_nothing(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = taken(folder).chain("full")
    run_when(monkeypatch, "rename", ".0001-full-000000.json", lambda: taken(folder))
    with pytest.raises((Superseded, DiskFault)):
        chain.seal(span(1))
    assert rows_in(folder) == []


def test_rows_that_are_committed_while_a_writer_is_taken_over_count_at_most_once(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = taken(folder).chain("full")
    chain.commit(span(0))
    fsync, pending = DISK.fsync, [True]

    def taken_before(descriptor: int) -> None:
        if pending:
            pending.pop()
            taken(folder)
        fsync(descriptor)

    monkeypatch.setattr(DISK, "fsync", taken_before)
    with pytest.raises(Superseded):
        chain.commit(span(1))
    taken(folder)
    assert rows_in(folder) == [
        0,
        1,
    ]  # the frame was whole when the run was taken; had it not been, it would be run again
    verify_segments(folder)


def test_a_journal_that_a_superseded_writer_begins_after_its_end_is_dropped(folder: Path, span: Settle) -> None:
    stale = taken(folder)
    stale.chain("full").commit(span(0))
    taken(folder)
    shutil.copy(folder / "writer-0001.json", folder / "0001-late-000000.journal")  # its content does not matter
    taken(folder)
    assert (rows_in(folder), journals(folder)) == ([0], [])


@pytest.mark.parametrize("step", ["_drop_what_does_not_count", "_recover_journals"])
def test_a_writer_that_was_superseded_while_it_took_over_drops_nothing_of_its_successor(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    taken(folder).chain("full").seal(span(0))
    before, pending = getattr(writer, step), [True]

    def resumed_late(*arguments: Any) -> None:
        if pending:
            pending.pop()
            successor = taken(folder)
            successor.chain("full").seal(span(1))
            successor.chain("full").commit(span(2))
        before(*arguments)

    monkeypatch.setattr(writer, step, resumed_late)
    try:
        taken(folder)
    except Superseded:
        pass  # to be told at once is as good
    assert rows_in(folder) == [0, 1]
    assert durable_outcomes(folder) == Counter(answered=3)


def test_a_writer_that_was_superseded_while_it_took_over_leaves_the_journals_to_its_successor(
    folder: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(folder).chain("full").commit(span(0))
    recover, pending = writer._recover_journals, [True]

    def resumed_late(*arguments: Any) -> None:
        if pending:
            pending.pop()
            taken(folder).chain("full").commit(span(1))
        recover(*arguments)

    monkeypatch.setattr(writer, "_recover_journals", resumed_late)
    try:
        taken(folder)
    except Superseded:
        pass
    assert durable_outcomes(folder) == Counter(answered=2)


# Ends.


def test_an_end_says_where_each_chain_stopped(folder: Path, span: Settle) -> None:
    made = taken(folder)
    made.chain("full").seal(span(0))
    made.chain("full").seal(span(1))
    made.chain("quantized").seal(span(2))
    made.end()
    assert {name: chain["last"] for name, chain in read_ends(folder)[1]["chains"].items()} == {
        "full": 1,
        "quantized": 0,
    }


def test_a_writer_that_did_not_end_is_ended_by_the_next(folder: Path, span: Settle) -> None:
    taken(folder).chain("full").seal(span(0))
    assert read_ends(folder) == {}
    taken(folder)
    assert read_ends(folder)[1]["chains"].keys() == {"full"}


def test_an_end_is_never_written_again(folder: Path, span: Settle) -> None:
    made = taken(folder)
    made.chain("full").seal(span(0))
    made.end()
    before = (folder / "writer-0001.ended.json").stat()
    taken(folder)
    after = (folder / "writer-0001.ended.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_superseded_writer_does_not_change_what_its_successor_said_of_its_end(folder: Path, span: Settle) -> None:
    stale = taken(folder)
    stale.chain("full").commit(span(0))
    taken(folder)
    before = (folder / "writer-0001.ended.json").read_bytes()
    with pytest.raises(Superseded):
        stale.end()
    assert (folder / "writer-0001.ended.json").read_bytes() == before


def test_what_is_sealed_is_not_touched_by_the_next_writer(folder: Path, span: Settle) -> None:
    taken(folder).chain("full").seal(span(0))
    before = {file: file.read_bytes() for file in folder.iterdir()}
    taken(folder).chain("full").seal(span(1))
    assert {file: file.read_bytes() for file in before} == before


def test_the_next_writer_drops_what_a_crash_left(folder: Path, span: Settle) -> None:
    chain = taken(folder).chain("full")
    chain.seal(span(0))
    chain.seal(span(1))
    (folder / "0001-full-000001.json").unlink()
    (folder / ".0001-full-000002.parquet.77.writing").touch()
    taken(folder)
    assert not list(folder.glob("*0001-full-000001*")) + list(folder.glob(".*"))
    assert rows_in(folder) == [0]


# Recovery.


def test_what_was_durable_in_journals_becomes_segments_of_the_next_writer(folder: Path, span: Settle) -> None:
    killed = taken(folder)
    killed.chain("full").seal(span(0))
    killed.chain("full").commit(span(1, 2))
    killed.chain("full").commit(span(3))
    killed.chain("quantized").commit(span(4))
    taken(folder)
    assert (rows_in(folder), journals(folder)) == ([0, 1, 2, 3, 4], [])
    recovered = [segment.facts["recovers"] for segment in read_segments(folder) if segment.name.chain == "recovered"]
    assert recovered == ["0001-full-000001", "0001-quantized-000000"]
    verify_segments(folder)


def test_a_frame_that_was_never_completed_is_passed_over(folder: Path, span: Settle) -> None:
    chain = taken(folder).chain("full")
    chain.commit(span(0))
    chain.commit(span(1))
    [(_, journal)] = journals(folder)
    journal.write_bytes(journal.read_bytes()[:-1])
    taken(folder)
    assert rows_in(folder) == [0]


def test_a_journal_without_a_whole_frame_leaves_nothing(folder: Path, span: Settle) -> None:
    taken(folder).chain("full").commit(span(0))
    [(_, journal)] = journals(folder)
    journal.write_bytes(journal.read_bytes()[:-1])
    taken(folder)
    assert (rows_in(folder), journals(folder)) == ([], [])


def test_a_journal_whose_segment_was_sealed_is_not_counted_again(folder: Path, span: Settle) -> None:
    chain = taken(folder).chain("full")
    chain.commit(span(0))
    [(_, journal)] = journals(folder)
    left = journal.read_bytes()
    chain.seal()
    journal.write_bytes(left)  # killed before it was removed
    taken(folder)
    assert (rows_in(folder), journals(folder)) == ([0], [])


CHANGES = ("open", "write", "fsync", "rename", "remove", "make_folder")


def cut_off(at: int, take_over: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Break off before the call of that number that changes anything; True if it came so far."""
    calls = iter(range(1_000_000))
    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(DISK, name, _breaking(getattr(DISK, name), calls, at))
        try:
            take_over()
        except Broken:
            return True
    return False


def _breaking(call: Callable[..., Any], calls: Any, at: int) -> Callable[..., Any]:
    def broken(*arguments: Any) -> Any:
        if next(calls) >= at:  # nothing comes after a kill, no clean-up either
            raise Broken
        return call(*arguments)

    return broken


def killed_run(folder: Path, span: Settle) -> None:
    """Rows 0 to 4: sealed, in a journal of two frames, and in both. And a table without a manifest."""
    killed = taken(folder)
    killed.chain("full").seal(span(0))
    killed.chain("quantized").commit(span(3))
    killed.chain("quantized").commit(span(4))
    killed.chain("full").commit(span(1, 2))
    [journal] = folder.glob("0001-full-*.journal")
    left = journal.read_bytes()
    killed.chain("full").seal()
    journal.write_bytes(left)
    (folder / "0001-full-000002.parquet").write_bytes(b"half written")


def test_a_recovery_that_is_cut_off_at_any_step_is_made_good_by_the_next(
    tmp_path: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_run(tmp_path / "killed" / "segments", span)
    for at in range(1000):
        folder = shutil.copytree(tmp_path / "killed", tmp_path / str(at)) / "segments"
        if not cut_off(at, lambda: taken(folder), monkeypatch):  # noqa: B023
            break
        assert durable_outcomes(folder) == Counter(answered=5)
        made = taken(folder)
        assert (rows_in(folder), journals(folder)) == ([0, 1, 2, 3, 4], [])
        assert not (folder / "0001-full-000002.parquet").exists()
        made.end()
        verify_segments(folder)
    assert at > 20  # it was cut off so many times


def test_a_recovery_may_be_cut_off_again_and_again(
    tmp_path: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "segments"
    killed_run(folder, span)
    at = 0
    while cut_off(at, lambda: taken(folder), monkeypatch):
        at += 1
        assert durable_outcomes(folder) == Counter(answered=5)
    assert rows_in(folder) == [0, 1, 2, 3, 4]
    verify_segments(folder)


def test_a_full_disk_at_any_step_of_a_recovery_loses_nothing(
    tmp_path: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_run(tmp_path / "killed" / "segments", span)
    for at in range(1000):
        folder = shutil.copytree(tmp_path / "killed", tmp_path / str(at)) / "segments"
        calls = iter(range(1_000_000))

        def full(descriptor: int, data: bytes) -> int:
            if next(calls) >= at:  # noqa: B023
                raise OSError(28, "No space left on device")
            return durable.Disk.write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(DISK, "write", full)
            try:
                taken(folder)
                break
            except DiskFault:
                pass
        taken(folder)
        assert rows_in(folder) == [0, 1, 2, 3, 4]
    assert at > 3


# What a killed writer spent and lost.


def test_what_an_engine_spent_without_a_settled_row_is_a_loss(folder: Path, span: Settle) -> None:
    killed = taken(folder)
    meter = killed.meter("full")
    meter.count(20, 10)
    killed.chain("full").seal(span(0, engine=meter.name))
    killed.chain("full").commit(span(1, engine=meter.name))  # durable, so it is no loss
    # Two rows: 2 x (3 - 1) of 20 prompt tokens and 2 x 2 of 10 output tokens.
    assert taken(folder).losses == [Loss("0001-full-001", "full", Spent(0.0, 16, 6))]


def test_seconds_that_a_segment_accounts_for_are_no_loss(folder: Path, span: Settle) -> None:
    killed = taken(folder)
    meter = killed.meter("full")
    meter._began -= 10  # it has run for ten seconds
    meter.tick()
    start_up = Overhead("start_up", "full", 3.0, Decimal(3), engine=meter.name)
    killed.chain("full").seal(span(0, engine=meter.name, seconds=5.0, overheads=[start_up]))
    [loss] = taken(folder).losses
    assert loss.spent.seconds == pytest.approx(2, abs=0.1)


def test_nothing_is_lost_below_zero(folder: Path, span: Settle) -> None:
    killed = taken(folder)
    meter = killed.meter("full")
    killed.chain("full").seal(span(0, engine=meter.name, seconds=5.0))
    assert taken(folder).losses == [Loss(meter.name, "full", Spent())]  # a power failure took what it showed


def test_a_loss_is_found_until_it_is_booked(folder: Path, span: Settle) -> None:
    meter = taken(folder).meter("full")
    meter.count(20, 10)
    assert len(taken(folder).losses) == 1
    second = taken(folder)
    assert len(second.losses) == 1
    second.chain("house").seal(span(closes=(meter.name,)))  # and killed before the meter was taken away
    assert taken(folder).losses == []
    assert not meter.path.exists()


def test_every_engine_has_a_meter_of_its_own(folder: Path) -> None:
    names = [made.meter(lane).name for made in (taken(folder), taken(folder)) for lane in ("full", "full", "quantized")]
    assert names == ["0001-full-001", "0001-full-002", "0001-quantized-003", "0002-full-001", "0002-full-002",
                     "0002-quantized-003"]  # fmt: skip


def test_a_chain_is_the_same_each_time_it_is_asked_for(folder: Path) -> None:
    made = taken(folder)
    assert made.chain("full") is made.chain("full")


def test_a_take_over_writes_sealed_files(folder: Path) -> None:
    made = taken(folder)
    made.end()
    assert read_sealed(taken_file(folder, 1))["epoch"] == 1
    assert json.loads((folder / "writer-0001.ended.json").read_text())["journals"] == []
