"""The same stages as Prefect tasks. Prefect holds no truth here: the run folder decides what is done."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from flows.answer import answer_work
from flows.buckets import runs_folder
from flows.faults import FAILED, exit_code_of
from flows.limits import StopReason
from flows.open import Work, open_work
from flows.pace import Tell
from flows.progress import Lines, Progress
from flows.receipt import Receipt
from serving.config import load_job
from serving.environment import settle
from serving.records import EngineDied, Usage

TOLD_EVERY_S = 10.0
TRIED_AGAIN_AFTER_S = (30.0, 300.0)


def run_as_task(stage: Callable[..., Any], /, *arguments: Any) -> Any:
    """A stage as a task. Its arguments stay out of Prefect's sight: it would walk and hash every value in them."""

    @task(name=stage.__name__, cache_policy=NO_CACHE, persist_result=False)
    def run() -> Any:
        return stage(*arguments)

    return run()


class Incomplete(RuntimeError):
    """The job ended with failed or open rows; the message is its receipt."""


@flow(name="gristmill", flow_run_name="{job}", persist_result=False, validate_parameters=False)
def answer_job(job: str, overrides: list[str] | None = None, runs: str = "runs") -> str:
    """Run or resume a job file; returns the receipt. This is what deployments run.

    An engine or a disk that fails is given time, and tried again from where the run is; nothing else is tried again.

    Raises:
        Incomplete: rows failed, or a limit stopped the run; so that the flow run shows as failed.
    """
    settle(Path(".gristmill").resolve())
    checked = load_job(Path(job), overrides)
    folder = runs_folder(runs)
    receipt = _given_time(lambda: open_work(checked, folder, Lines(checked.budget.usd)))
    if receipt.exit_code:
        raise Incomplete(f"exit code {receipt.exit_code}\n{receipt}")
    return str(receipt)


def _given_time(opened: Callable[[], Work]) -> Receipt:
    """Tried again after a pause, until the deadline that the first try had."""
    work = opened()
    deadline = work.limits.deadline
    for pause_s in TRIED_AGAIN_AFTER_S:
        try:
            return _answer_as_tasks(work)
        except (EngineDied, OSError) as fault:
            if exit_code_of(fault) != FAILED or work.limits.left_s <= pause_s:
                raise
            work.progress.say(f"{fault}; tried again in {pause_s:.0f} s")
        time.sleep(pause_s)
        work = opened()
        work.limits.deadline = deadline
    return _answer_as_tasks(work)


def answer_as_flow(work: Work, job: str) -> Receipt:
    """The same for a job that is open in this process, with the receipt as a value; `job` names the flow run."""

    @flow(name="gristmill", flow_run_name=job, persist_result=False)
    def here() -> Receipt:
        return _answer_as_tasks(work)

    return here()


def _answer_as_tasks(work: Work) -> Receipt:
    published = work.progress = Published(work.progress, work.run.run_id)
    receipt = answer_work(work, run_as_task)
    published.tell()
    of_run = f"of {receipt.run.run_id}"
    create_markdown_artifact(f"```\n{receipt}\n```", key="receipt", description=f"Receipt {of_run}")
    lanes = [{name: str(value) for name, value in lane.items() if name != "run_id"} for lane in receipt.lanes]
    create_table_artifact(lanes, key="lanes", description=f"Lanes {of_run}")
    for what in _worth_a_notice(receipt):
        emit_event(f"gristmill.{what}", resource={"prefect.resource.id": f"gristmill.run.{receipt.run.run_id}"})
    return receipt


def _worth_a_notice(receipt: Receipt) -> list[str]:
    """What an automation can be hung on: a budget or a deadline that ended the run, a certificate that failed."""
    stops = {StopReason.BUDGET: ["budget-reached"], StopReason.DEADLINE: ["deadline-reached"]}
    refused = ["not-certified"] if any(": none. At most" in line for line in receipt.promises) else []
    return stops.get(receipt.stopped, []) + refused


class Published:
    """What another progress shows, as a progress artifact of the flow run as well."""

    def __init__(self, shown: Progress, run_id: str) -> None:
        self._shown = shown
        self._rows = self._done = 0
        self._told_s = time.monotonic()
        self._artifact: Any = create_progress_artifact(0.0, key="progress", description=f"Rows of {run_id}")
        self.say, self.begin, self.more = shown.say, shown.begin, shown.more

    def start(self, rows: int, done: int) -> None:
        self._rows, self._done = rows, done
        self._shown.start(rows, done)

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        self._done += rows
        self._shown.advance(rows, usage, most_tokens, tell)
        if time.monotonic() - self._told_s >= TOLD_EVERY_S:
            self.tell()

    def end(self) -> None:
        self._shown.end()

    def tell(self) -> None:
        self._told_s = time.monotonic()
        update_progress_artifact(self._artifact, 100 * self._done / max(1, self._rows))
