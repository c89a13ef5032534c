"""The main path: a file of prompts in, a file of answers and a bill out. Each line is a stage; each stage can resume.

`step` runs a stage: as a plain call, or as a Prefect task (flows.orchestrate). Nothing here depends on which.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from flows.admit import admit
from flows.lane import answer_lane, lanes_to_run
from flows.limits import Stopped, StopReason
from flows.open import Work, open_work
from flows.progress import Progress
from flows.receipt import Receipt, take_receipt
from flows.room import check_room
from flows.settlement import book_the_past
from flows.stages import collapse, publish, route
from serving.config import Job
from serving.engines.open import check_engine


class Step(Protocol):
    """Runs one stage with its arguments and hands back what it returns."""

    def __call__(self, stage: Callable[..., Any], /, *arguments: Any) -> Any: ...


def run_here(stage: Callable[..., Any], /, *arguments: Any) -> Any:
    return stage(*arguments)


def answer(job: Job, runs: Path, progress: Progress, step: Step = run_here, *, take_over: bool = False) -> Receipt:
    """Run or resume a job."""
    return answer_work(open_work(job, runs, progress, take_over), step)


def answer_work(work: Work, step: Step = run_here) -> Receipt:
    """The same for a job that is open. A finished one is only read: no engine, no byte changed."""
    if work.finished:
        return take_receipt(work.run, StopReason.NONE)
    for name, model in work.models.items():
        check_engine(work.job.engine, work.job.lanes[name], model, work.adapters)
    with work.held():
        book_the_past(work)
        try:
            for stage in (admit, collapse, route):
                _do(step, stage, work)
            check_room(work)
            for lane in lanes_to_run(work):
                _do(step, answer_lane, work, lane)
        except Stopped:
            pass  # by the budget, the deadline or a signal, before an engine ran; the receipt says by which
        _do(step, publish, work)
    return take_receipt(work.run, work.stopped)


def _do(step: Step, stage: Callable[..., Any], work: Work, *more: Any) -> None:
    work.writer.check()
    step(stage, work, *more)
