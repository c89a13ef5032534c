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
    """Calibrate with so much left unexplained, round by round, and so many rows open after each; how many rounds."""

    def run(noise: list[float], still_open: int = 1) -> tuple[int, str]:
        done: list[int] = []
        left: Iterator[float] = iter(noise)
        now = [0.0]

        def answered(work: Any, step: Any, rows: int) -> Any:
            done.append(rows)
            now[0] = next(left)
            return SimpleNamespace(counts={"expired": still_open})

        monkeypatch.setattr(module, "answer_work", answered)
        monkeypatch.setattr(module, "engine_of", lambda work, lane: "engine")
        monkeypatch.setattr(module, "what_is_known", lambda engine: SimpleNamespace(evidence=None))
        monkeypatch.setattr(module, "fitted", lambda evidence: None)
        monkeypatch.setattr(module, "unexplained", lambda evidence, times: now[0])
        monkeypatch.setattr(module, "_report", lambda known: ["a table"])
        monkeypatch.setattr(module, "_ceilings", lambda work: [])
        work = SimpleNamespace(
            job=SimpleNamespace(engine=SimpleNamespace(kind="vllm"), lanes={"full": LANE}),
            limits=SimpleNamespace(stop=lambda: False),
            progress=SimpleNamespace(say=lambda text: None),
        )
        report = calibrate(lambda: work, 16)  # type: ignore[arg-type, return-value]
        return len(done), report

    return run


def test_a_quiet_machine_is_measured_once(rounds: Any) -> None:
    assert rounds([CLEAR / 2]) == (1, "a table")


def test_a_machine_that_was_busy_is_measured_again(rounds: Any) -> None:
    assert rounds([2 * CLEAR, CLEAR / 2]) == (2, "a table")


def test_a_machine_that_stays_busy_is_said_to_be(rounds: Any) -> None:
    count, report = rounds([2 * CLEAR] * MOST_ROUNDS)
    assert count == MOST_ROUNDS
    assert "full: 50% of a step's time is not explained" in report
    assert "calibrate again when it is quiet" in report


def test_no_row_is_answered_twice_for_it(rounds: Any) -> None:
    count, report = rounds([2 * CLEAR], still_open=0)
    assert count == 1
    assert "calibrate again" in report
