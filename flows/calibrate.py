"""`gristmill calibrate`: run a job's engines on a few of its rows, and keep what they took for forecasts.

The rows are answered for good: the job's own run settles them, and goes on from there.
"""

from collections.abc import Callable, Mapping
from subprocess import SubprocessError

from flows.answer import Step, answer_work, run_here
from flows.forecast import engine_of
from flows.open import Work
from flows.terminal import in_columns
from optimizer.planner.own_steps import fitted, unexplained
from serving.config import BadJob
from serving.engines.ceilings import keep, measure
from serving.engines.machine import this_machine
from serving.engines.measured import EngineKey, Measured, what_is_known
from serving.engines.open import settled_for

# Of a step's time, that its tokens do not explain. More is a machine that was busy with something else: forecasts from
# such steps have missed by 22 % where others missed by 4 (docs/planning.md).
CLEAR = 0.25
MOST_ROUNDS = 3

Known = Mapping[str, tuple[EngineKey, Measured | None]]


def calibrate(opened: Callable[[], Work], rows: int, step: Step = run_here) -> str:
    """So many rows of each lane; more of those that are left, while what they took explains itself badly, and twice as
    many where they were too few steps, as short answers are. Older steps fade as newer ones come
    (serving.engines.measured). `opened` opens the job's run.

    Raises:
        BadJob: there is no engine of ours to measure.
    """
    for number in range(MOST_ROUNDS):
        work = opened()
        if not work.job.computes_here:
            elsewhere = "cluster.ray" if work.job.cluster.ray else f'engine.kind = "{work.job.engine.kind}"'
            raise BadJob(f"{elsewhere}: only an engine that runs here is calibrated (kind vllm, without a cluster)")
        receipt = answer_work(work, step, rows)
        known = {
            name: (engine := engine_of(work, lane), what_is_known(engine)) for name, lane in work.job.lanes.items()
        }
        few, unclear = _few(known), _unclear(known)
        if not (few or unclear) or not receipt.counts["expired"] or work.limits.stop():
            break
        if number + 1 < MOST_ROUNDS:
            rows *= 2 if few else 1
            work.progress.say(f"{'; '.join([*few, *unclear])}; {rows} more rows")
    return "\n".join(
        [*_report(known), *few, *_ceilings(work), *(f"{why}; calibrate again when it is quiet" for why in unclear)]
    )


def _ceilings(work: Work) -> list[str]:
    """Of this machine's cores; of a GPU the catalogue has the data sheet."""
    machine = this_machine()
    if machine.has_gpu:
        return []
    lane = work.job.lanes["full"]
    config, _ = settled_for(work.job.engine, lane, work.models[lane.name], work.adapters)
    dtype = config.precision.weights
    try:
        found = measure(config, machine)
    except (OSError, SubprocessError):
        return ["this machine's ceilings could not be measured, so a report has no roofline"]
    keep(found, machine, dtype)
    return [
        f"ceilings: {found.flop_s / 1e9:.0f} GFLOP/s in products of {dtype}, {found.bytes_s / 1e9:.1f} GB/s from memory"
    ]


def _few(known: Known) -> list[str]:
    """The lanes of which nothing is known yet, in words."""
    return [
        f"{name}: its engine ran too few steps here to learn from"
        for name, (_, measured) in known.items()
        if measured is None
    ]


def _unclear(known: Known) -> list[str]:
    """What cannot be relied on, in words; nothing where all can."""
    left = {
        name: unexplained(measured.evidence, fitted(measured.evidence))
        for name, (_, measured) in known.items()
        if measured is not None
    }
    return [
        f"{name}: {share:.0%} of a step's time is not explained by what it computed, so this machine was busy"
        for name, share in left.items()
        if share > CLEAR
    ]


def _report(known: Known) -> list[str]:
    heading = (
        "lane", "steps seen", "a step ms", "prompt token us", "per 1,000 attended us", "sequence us",
        "per 1,000 of context us", "not explained", "start-up s", "answers",
    )  # fmt: skip
    cells = [_cells(name, measured) for name, (_, measured) in known.items() if measured is not None]
    files = sorted({str(engine.file) for engine, measured in known.values() if measured is not None})
    lines = in_columns([heading, *cells], [False, *[True] * (len(heading) - 1)])
    return [*lines, *(f"kept in {file}" for file in files)]


def _cells(name: str, measured: Measured) -> tuple[str, ...]:
    times = fitted(measured.evidence)
    starts = [f"{start:.1f}" for start in (measured.first_start_s, measured.next_start_s) if start is not None]
    answers = sum(len(rows) for rows in measured.lengths.values())
    return (
        name, f"{measured.evidence.steps:.0f}", f"{times.step_s * 1e3:.2f}", f"{times.prompt_token_s * 1e6:.0f}",
        f"{times.attended_token_s * 1e9:.0f}", f"{times.sequence_s * 1e6:.0f}", f"{times.context_token_s * 1e9:.0f}",
        f"{unexplained(measured.evidence, times):.0%}", " / ".join(starts), str(answers),
    )  # fmt: skip
