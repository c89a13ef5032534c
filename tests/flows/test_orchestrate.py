"""What a deployment tries again, and what it does not."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import orchestrate
from flows.orchestrate import TRIED_AGAIN_AFTER_S, Incomplete, answer_job
from serving.config import BadJob
from serving.records import EngineDied
from serving.store.ledger import LedgerFault
from serving.store.sealed import Corrupt

JOB = """
[dataset]
path = "prompts.jsonl"
[model]
full = "echo"
[engine]
kind = "echo"
[price]
usd_per_hour = 0.1
"""
Answers = Callable[[list[Any]], tuple[int, list[float]]]


@pytest.fixture
def left_s() -> list[float]:
    """Until the deadline."""
    return [float("inf")]


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: list[float]) -> Answers:
    """Run a job whose tries end so, one after the other: a fault, or an exit code; how many there were, and the pauses
    between them."""
    (tmp_path / "job.toml").write_text(JOB)
    pauses: list[float] = []
    deadlines = iter(range(100))

    def opened(job: Any, runs: Any, progress: Any) -> Any:
        limits = SimpleNamespace(deadline=next(deadlines), left_s=left_s[0])
        return SimpleNamespace(limits=limits, progress=progress)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(orchestrate, "settle", lambda folder: None)
    monkeypatch.setattr(orchestrate, "open_work", opened)
    monkeypatch.setattr(orchestrate.time, "sleep", pauses.append)

    def run(ends: list[Any]) -> tuple[int, list[float]]:
        left = iter(ends)

        def once(work: Any) -> Any:
            assert work.limits.deadline == 0  # that of the first try, and no later day's
            end = next(left)
            if isinstance(end, BaseException):
                raise end
            return SimpleNamespace(exit_code=end)

        monkeypatch.setattr(orchestrate, "_answer_as_tasks", once)
        answer_job.fn("job.toml")
        return len(ends) - len(list(left)), pauses

    return run


def test_an_engine_that_failed_is_tried_again_after_a_pause(answered: Answers) -> None:
    assert answered([EngineDied("out of memory"), 0]) == (2, [TRIED_AGAIN_AFTER_S[0]])


def test_a_disk_that_failed_is_too(answered: Answers) -> None:
    assert answered([LedgerFault("no space"), OSError("no space"), 0]) == (3, list(TRIED_AGAIN_AFTER_S))


def test_what_fails_to_the_end_is_raised(answered: Answers) -> None:
    with pytest.raises(EngineDied, match="again"):
        answered([EngineDied("again")] * 3)


def test_nothing_is_tried_again_past_the_deadline(answered: Answers, left_s: list[float]) -> None:
    left_s[0] = TRIED_AGAIN_AFTER_S[0] - 1
    with pytest.raises(EngineDied):
        answered([EngineDied("late"), 0])


@pytest.mark.parametrize("end", [BadJob("wrong"), Corrupt("changed"), KeyError("a bug")])
def test_what_would_fail_again_is_not_tried_again(answered: Answers, end: Exception) -> None:
    with pytest.raises(type(end)):
        answered([end])


def test_rows_that_failed_fail_the_flow_run_and_are_not_asked_again(answered: Answers) -> None:
    with pytest.raises(Incomplete, match="exit code 1"):
        answered([1])
