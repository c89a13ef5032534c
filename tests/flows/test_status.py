"""Where a run stands is told to whoever asks from elsewhere, while it goes on and when it is over."""

import os
import time
from pathlib import Path

import pytest

from flows.progress import Noted, Silent, Standing, noted_in
from flows.status import status_of, watch
from flows.terminal import in_place
from serving.records import Request
from serving.store.run import all_runs
from tests.flows.test_lane import Bench


def test_it_tells_what_the_run_shows_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("flows.progress.NOTED_EVERY_S", 0.0)
    made = Bench(tmp_path, [f"prompt {row}" for row in range(20)])

    def look(request: Request) -> bool:
        [run] = all_runs(tmp_path / "runs")
        seen.append(status_of(run))
        return False

    made.run(fails=look)
    assert "running" in seen[-1]
    assert "/20 rows" in seen[-1]
    assert seen[-1].endswith("s ago")


def test_nothing_of_it_is_left_when_it_is_over(tmp_path: Path) -> None:
    receipt = Bench(tmp_path, ["one", "two"]).run()
    assert not receipt.run.live.exists()
    assert "finished" in status_of(receipt.run)


def test_watching_ends_when_nobody_works_on_it(tmp_path: Path) -> None:
    receipt = Bench(tmp_path, ["one", "two"]).run()
    shown: list[str] = []
    watch(receipt.run, shown.append, every_s=60)
    assert shown == [status_of(receipt.run)]


def test_a_note_that_is_broken_or_not_there_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "live.json"
    assert noted_in(file) is None
    for broken in ("", "{", "[]", "{}", '{"rows": 1}'):
        file.write_text(broken)
        assert noted_in(file) is None


def test_what_is_noted_is_read_again(tmp_path: Path) -> None:
    told = Standing(time.time(), 10, 5, 1.0, 2.0, 1.5, 2.5, "0.1", None)
    Noted(Silent(), tmp_path / "live.json", None).note(told)
    assert noted_in(tmp_path / "live.json") == told


def test_a_note_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    told = Standing(time.time(), 10, 5, 1.0, 2.0, 1.5, 2.5, "0.1", None)
    Noted(Silent(), tmp_path / "nowhere" / "live", None).note(told)


def test_nothing_is_left_of_a_note_that_could_not_be_put_in_place(tmp_path: Path) -> None:
    note = Noted(Silent(), tmp_path / "live", None)
    (tmp_path / "live").mkdir()
    note.note(Standing(time.time(), 10, 5, 1.0, 2.0, 1.5, 2.5, "0.1", None))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [".live.writing"]
    note.forget()
    assert not [file for file in tmp_path.iterdir() if file.is_file()]


def test_a_terminal_is_drawn_in_place() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        show = in_place(terminal)
        show("one\ntwo")
        show("three")
        drawn = b""
        while b"three" not in drawn:
            drawn += os.read(ours, 1000)
        assert b"\x1b[2F\x1b[J" in drawn
    os.close(ours)
