"""An engine's scheduler played through to the end of a job: when it ends, and what it was busy with."""

from dataclasses import dataclass

import numpy as np

from optimizer.planner.schedule import Schedule, schedule
from optimizer.planner.step_times import OverArrays, StepSeconds, run_seconds
from optimizer.planner.workload import Floats, KvBlocks, Requests
from serving.engine_config import Batching


@dataclass(frozen=True, slots=True)
class Simulation:
    """Times are from the job's first step; arrays have one element a request, in the order they were fed."""

    makespan_s: float
    first_scheduled_s: Floats
    first_token_s: Floats
    finish_s: Floats
    steps: int
    preemptions: int
    prompt_tokens: int
    prefix_hit_tokens: int  # found by requests as they began; not what preempted ones found again
    recomputed_tokens: int  # in the cache once, and lost to preemption
    prefilled_tokens: int  # computed for prompts, and for prompts and answers that were preempted
    generated_tokens: int
    mean_running: float  # sequences that were computed, averaged over time
    peak_kv_blocks: int
    peak_kv_share: float
    tail_s: float  # from the last admission to the end: nobody waits, and seats stay empty
    rate_tokens_per_s: float  # generated, while the second and the third quarter of them were: no start, no tail


def simulate(
    requests: Requests, batching: Batching, kv: KvBlocks, step_seconds: StepSeconds | OverArrays
) -> Simulation:
    """Raises KvTooSmall, or ValueError for limits that vLLM refuses."""
    return timed(schedule(requests, batching, kv), requests, kv, step_seconds)


def timed(played: Schedule, requests: Requests, kv: KvBlocks, step_seconds: StepSeconds | OverArrays) -> Simulation:
    """What the schedule of these requests takes; one schedule can be timed by any number of step-time functions."""
    seconds = run_seconds(played, step_seconds)
    ends = np.cumsum(seconds)
    starts = ends - seconds
    makespan_s = float(ends[-1]) if len(ends) else 0.0
    generated = played.generated_tokens
    peak = int(played.held_blocks.max(initial=0))
    return Simulation(
        makespan_s=makespan_s,
        first_scheduled_s=starts[played.first_scheduled_run],
        first_token_s=ends[played.first_token_run],
        finish_s=ends[played.finish_run],
        steps=int(played.steps.sum()),
        preemptions=played.preemptions,
        prompt_tokens=int(requests.prompt_tokens.sum()),
        prefix_hit_tokens=played.prefix_hit_tokens,
        recomputed_tokens=played.recomputed_tokens,
        prefilled_tokens=int((played.steps * played.prefill_tokens).sum()),
        generated_tokens=int(generated.sum()),
        mean_running=float(played.sequences @ seconds) / makespan_s if makespan_s else 0.0,
        peak_kv_blocks=peak,
        peak_kv_share=peak / kv.blocks,
        tail_s=makespan_s - float(starts[played.last_admission_run]) if len(ends) else 0.0,
        rate_tokens_per_s=_middle_rate(np.cumsum(generated), ends),
    )


def _middle_rate(generated: Floats, ends: Floats) -> float:
    if not len(ends):
        return 0.0
    tokens = np.r_[0.0, generated]
    quarter, three_quarters = np.interp([0.25 * tokens[-1], 0.75 * tokens[-1]], tokens, np.r_[0.0, ends])
    return float(0.5 * tokens[-1] / (three_quarters - quarter)) if three_quarters > quarter else 0.0
