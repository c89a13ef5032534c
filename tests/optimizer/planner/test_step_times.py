"""What runs of steps take, against their sum step by step."""

import numpy as np
import pytest

from optimizer.planner.schedule import Schedule, schedule
from optimizer.planner.simulation import timed
from optimizer.planner.step_times import PIECE_STEPS, OverArrays, StepSeconds, run_seconds
from optimizer.planner.workload import Floats, KvBlocks, Requests
from serving.engine_config import Batching

REQUESTS, KV = Requests(np.array([50, 60]), np.array([3 * PIECE_STEPS + 7, 40])), KvBlocks(1000)


def played(every_step: bool) -> Schedule:
    return schedule(REQUESTS, Batching(2, 2048), KV, every_step=every_step)


def step_by_step(step_seconds: StepSeconds) -> float:
    columns = played(every_step=True)
    steps = zip(
        columns.prefill_tokens, columns.prefill_context_tokens, columns.decode_sequences, columns.decode_context_tokens,
        strict=True,
    )  # fmt: skip
    return sum(step_seconds(*map(float, step)) for step in steps)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_step_times_that_are_polynomials_of_the_context_are_added_up_exactly(degree: int) -> None:
    def polynomial(prefill: float, prefill_context: float, decodes: float, decode_context: float) -> float:
        return 1e-3 + 1e-5 * prefill + 1e-7 * prefill_context + decodes + (decode_context / 100) ** degree

    assert run_seconds(played(False), polynomial).sum() == pytest.approx(step_by_step(polynomial), rel=1e-12)


def test_a_function_of_arrays_is_called_three_times_at_most_and_says_the_same() -> None:
    calls = []

    def over_arrays(prefill: Floats, prefill_context: Floats, decodes: Floats, decode_context: Floats) -> Floats:
        calls.append(len(prefill))
        return np.sqrt(decode_context) + prefill + decodes

    def of_numbers(prefill: float, prefill_context: float, decodes: float, decode_context: float) -> float:
        return float(decode_context**0.5 + prefill + decodes)

    columns = played(False)
    assert run_seconds(columns, OverArrays(over_arrays)) == pytest.approx(run_seconds(columns, of_numbers))
    assert len(calls) == 3
    assert sum(calls) < len(played(True).steps) / 4
    told = timed(columns, REQUESTS, KV, of_numbers)
    assert told.makespan_s == pytest.approx(step_by_step(of_numbers), rel=1e-4)


def test_a_step_time_is_asked_in_numbers_of_python() -> None:
    def strict(*step: float) -> float:
        assert all(type(each) is float for each in step)
        return 1.0

    assert run_seconds(played(False), strict).sum() == pytest.approx(played(False).steps.sum())


def test_a_long_prompt_in_chunks_looks_at_as_many_tokens_as_in_one() -> None:
    one, several = (
        schedule(Requests(np.array([100]), np.array([1])), Batching(1, budget), KV).prefill_context_tokens.sum()
        for budget in (200, 7)
    )
    assert one == several == 100 * 101 // 2
