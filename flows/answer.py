"""The main path: a file of prompts in, a file of answers and a bill out. Each line is a stage; each stage can resume.

`step` runs a stage: as a plain call, or as a Prefect task (flows.orchestrate). Nothing here depends on which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flows.candidates import levers
from flows.certify import certify, share
from flows.decisions import DECISIONS
from flows.lane import answer_lane, lanes_to_run
from flows.limits import Stopped, StopReason
from flows.members import Rows, most_pending_rows
from flows.open import Work, open_work
from flows.pilot import pilot_of
from flows.plan import choose, plan_ahead
from flows.progress import Noted, Progress
from flows.receipt import Receipt, take_receipt
from flows.room import check_room
from flows.settlement import book_the_past
from flows.stages import make_ledger, publish
from serving.config import Job
from serving.engines.open import check_engine, warm_up
from serving.garbage import rarely_searched

ALLOCATIONS = 50_000  # between two searches for garbage among what is new


class Step(Protocol):
    """Runs one stage with its arguments and hands back what it returns."""

    def __call__(self, stage: Callable[..., Any], /, *arguments: Any) -> Any: ...


def run_here(stage: Callable[..., Any], /, *arguments: Any) -> Any:
    return stage(*arguments)


def answer(job: Job, runs: Path, progress: Progress, step: Step = run_here, *, take_over: bool = False) -> Receipt:
    """Run or resume a job."""
    return answer_work(open_work(job, runs, progress, take_over), step)


def answer_work(work: Work, step: Step = run_here, sample_rows: int | None = None) -> Receipt:
    """The same for a job that is open. A finished one is only read: no engine, no byte of it changed.

    With `sample_rows` no more than so many rows of each lane are answered, drawn at random.
    """
    if work.finished:
        make_ledger(work)
        return take_receipt(work.run, StopReason.NONE)
    for name, model in work.models.items() if work.job.computes_here else ():
        check_engine(work.job.engine, work.job.lanes[name], model, work.adapters)
    with work.held(), noted(work), rarely_searched(ALLOCATIONS):
        book_the_past(work)
        _warm_up(work)
        try:
            for stage in DECISIONS:
                _do(step, stage, work)
            check_room(work)
            lanes = lanes_to_run(work)
            to_run = [(lane, most_pending_rows(work, lane)) for lane in lanes]
            if sample_rows is not None:
                for lane, pending in to_run:
                    _do(step, answer_lane, work, lane, None, _sample(pending, sample_rows))
            else:
                to_run = [(lane, pending) for lane, pending in to_run if len(pending)]
                choose(work, to_run)
                plan_ahead(work, to_run)
                pilot = pilot_of(work, to_run)
                del to_run  # a lane looks anew, and many rows need not be held twice
                for lane in lanes:
                    _do(step, answer_lane, work, lane, pilot)
                    pilot = None
                if levers(work):
                    _settle_looks(work, step)
        except Stopped:
            pass  # by the budget, the deadline or a signal, before an engine ran; the receipt says by which
        _do(step, publish, work)
    return take_receipt(work.run, work.stopped)


@contextmanager
def noted(work: Work) -> Iterator[None]:
    """Where the run stands is also told to whoever asks `gristmill status`, for as long as it goes on. After a fault
    the note stays, since nothing is touched any more; nobody reads it of a run that is not held."""
    shown = work.progress
    work.progress = note = Noted(shown, work.run.live, work.job.budget.usd)
    yield
    work.progress = shown
    note.forget()


def _warm_up(work: Work) -> None:
    """An engine's process is made ready to be forked beside the stages that need none."""
    if work.job.computes_here:
        lane = next(iter(work.job.lanes.values()))
        warm_up(work.job.engine, lane, work.models[lane.name], work.adapters, work.servers, work.log_of(lane))


def _settle_looks(work: Work, step: Step) -> None:
    """Rows that a certificate covers are served without a run of the full model; it answers the others."""
    while not work.limits.stop():
        _do(step, certify, work)
        if not (lanes := lanes_to_run(work)):
            break
        for lane in lanes:
            _do(step, answer_lane, work, lane)
    _do(step, share, work)


def _do(step: Step, stage: Callable[..., Any], work: Work, *more: Any) -> None:
    work.writer.check()
    step(stage, work, *more)


def _sample(pending: Rows, rows: int) -> Rows:
    """The same rows every time, so that a sample that was stopped is gone on with."""
    return np.sort(np.random.default_rng(0).permutation(pending)[:rows])
