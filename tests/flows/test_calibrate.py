"""A calibration goes on while a machine is too busy to be measured, and says so where it stays that."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flows import calibrate as module
from flows.calibrate import CLEAR, MOST_ROUNDS, calibrate
from serving.records import Lane

LANE = Lane("full", "model")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calibrate with so much left unexplained, round by round, or None for too few steps to know; and so many rows open
    after each. The rows of each round, and the report."""

    def run(noise: list[float | None], still_open: int = 1) -> tuple[list[int], str]:
        done: list[int] = []
        left: Iterator[float | None] = iter(noise)
        now: list[float | None] = [0.0]

        def answered(work: Any, step: Any, rows: int) -> Any:
            done.append(rows)
            now[0] = next(left)
            return SimpleNamespace(counts={"expired": still_open})

        monkeypatch.setattr(module, "answer_work", answered)
        monkeypatch.setattr(module, "engine_of", lambda work, lane: "engine")
        monkeypatch.setattr(
            module, "what_is_known", lambda engine: None if now[0] is None else SimpleNamespace(evidence=None)
        )
        monkeypatch.setattr(module, "fitted", lambda evidence: None)
        monkeypatch.setattr(module, "unexplained", lambda evidence, times: now[0])
        monkeypatch.setattr(module, "_report", lambda known: ["a table"])
        monkeypatch.setattr(module, "_ceilings", lambda work: [])
        work = SimpleNamespace(
            job=SimpleNamespace(computes_here=True, lanes={"full": LANE}),
            limits=SimpleNamespace(stop=lambda: False),
            progress=SimpleNamespace(say=lambda text: None),
        )
        report = calibrate(lambda: work, 16)  # type: ignore[arg-type, return-value]
        return done, report

    return run


def test_a_quiet_machine_is_measured_once(rounds: Any) -> None:
    assert rounds([CLEAR / 2]) == ([16], "a table")


def test_a_machine_that_was_busy_is_measured_again(rounds: Any) -> None:
    assert rounds([2 * CLEAR, CLEAR / 2]) == ([16, 16], "a table")


def test_a_machine_that_stays_busy_is_said_to_be(rounds: Any) -> None:
    done, report = rounds([2 * CLEAR] * MOST_ROUNDS)
    assert len(done) == MOST_ROUNDS
    assert "full: 50% of a step's time is not explained" in report
    assert "calibrate again when it is quiet" in report


def test_too_few_steps_are_followed_by_twice_the_rows(rounds: Any) -> None:
    assert rounds([None, None, CLEAR / 2]) == ([16, 32, 64], "a table")


def test_what_stays_unknown_is_said(rounds: Any) -> None:
    assert rounds([None], still_open=0) == ([16], "a table\nfull: its engine ran too few steps here to learn from")


def test_no_row_is_answered_twice_for_it(rounds: Any) -> None:
    done, report = rounds([2 * CLEAR], still_open=0)
    assert done == [16]
    assert "calibrate again" in report
