"""The same stages as Prefect tasks. Prefect holds no truth here: the run folder decides what is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.answer import answer_work
from flows.open import Work, open_work
from flows.progress import Lines
from flows.receipt import Receipt
from serving.config import load_job
from serving.environment import settle


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

    Raises:
        Incomplete: rows failed, or a limit stopped the run; so that the flow run shows as failed.
    """
    settle(Path(".gristmill").resolve())
    checked = load_job(Path(job), overrides)
    receipt = _answer_as_tasks(open_work(checked, Path(runs), Lines(checked.budget.usd)))
    if receipt.exit_code:
        raise Incomplete(f"exit code {receipt.exit_code}\n{receipt}")
    return str(receipt)


def answer_as_flow(work: Work, job: str) -> Receipt:
    """The same for a job that is open in this process, with the receipt as a value; `job` names the flow run."""

    @flow(name="gristmill", flow_run_name=job, persist_result=False)
    def here() -> Receipt:
        return _answer_as_tasks(work)

    return here()


def _answer_as_tasks(work: Work) -> Receipt:
    receipt = answer_work(work, run_as_task)
    create_markdown_artifact(f"```\n{receipt}\n```", key="receipt", description=f"Receipt of {receipt.run.run_id}")
    return receipt
