"""`gristmill calibrate`: run a job's engines on a few of its rows, and keep what they took for forecasts.

The rows are answered for good: the job's own run settles them, and goes on from there.
"""

from flows.answer import Step, answer_work, run_here
from flows.forecast import engine_of
from flows.open import Work
from flows.terminal import in_columns
from optimizer.planner.own_steps import fitted, unexplained
from serving.config import BadJob
from serving.engines.measured import EngineKey, Measured, what_is_known


def calibrate(work: Work, rows: int, step: Step = run_here) -> str:
    """Raises BadJob where there is no engine of ours to measure."""
    if work.job.engine.kind != "vllm":
        raise BadJob(f'engine.kind = "{work.job.engine.kind}": only an engine that runs here is calibrated ("vllm")')
    answer_work(work, step, rows)
    known = {name: (engine := engine_of(work, lane), what_is_known(engine)) for name, lane in work.job.lanes.items()}
    return "\n".join(_report(known))


def _report(known: dict[str, tuple[EngineKey, Measured | None]]) -> list[str]:
    heading = (
        "lane", "steps seen", "a step ms", "prompt token us", "per 1,000 attended us", "sequence us",
        "per 1,000 of context us", "not explained", "start-up s", "answers",
    )  # fmt: skip
    cells = [_cells(name, measured) for name, (_, measured) in known.items() if measured is not None]
    files = sorted({str(engine.file) for engine, measured in known.values() if measured is not None})
    lines = in_columns([heading, *cells], [False, *[True] * (len(heading) - 1)])
    unknown = [name for name, (_, measured) in known.items() if measured is None]
    missing = [f"{name}: its engine ran too few steps here to learn from" for name in unknown]
    return [*lines, *missing, *(f"kept in {file}" for file in files)]


def _cells(name: str, measured: Measured) -> tuple[str, ...]:
    times = fitted(measured.evidence)
    starts = [f"{start:.1f}" for start in (measured.first_start_s, measured.next_start_s) if start is not None]
    answers = sum(len(rows) for rows in measured.lengths.values())
    return (
        name, f"{measured.evidence.steps:.0f}", f"{times.step_s * 1e3:.2f}", f"{times.prompt_token_s * 1e6:.0f}",
        f"{times.attended_token_s * 1e9:.0f}", f"{times.sequence_s * 1e6:.0f}", f"{times.context_token_s * 1e9:.0f}",
        f"{unexplained(measured.evidence, times):.0%}", " / ".join(starts), str(answers),
    )  # fmt: skip
