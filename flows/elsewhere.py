"""What the rows that are pending would cost on machines of the job's catalogue, by the planner's search over them
all."""

from collections.abc import Sequence

import numpy as np

from flows.forecast import Basis, drawn_outputs
from flows.lane_work import lane_work
from flows.members import Rows
from flows.open import Work
from optimizer.planner.found import Found
from optimizer.planner.job import Job, TokenCounts, Wish
from optimizer.planner.search import search
from serving.models.shape import shape_of
from serving.records import Lane

DRAWS = 4
MOST_CACHED = 0.99
WEIGHTS = {"fp8": "fp8", "w8a8": "int8", "w4a16": "w4a16", "awq": "awq", "gptq": "gptq"}  # else 16 bits


def elsewhere(work: Work, lanes: Sequence[tuple[Lane, Rows]], bases: Sequence[Basis] | None) -> Found:
    """All of it by the full model, in time for the job's deadline. Without `bases`, answers are taken to be half as
    long as they may be."""
    works = [lane_work(work, lane, rows) for lane, rows in lanes]
    known: Sequence[Basis | None] = bases or [None] * len(works)
    prompts = np.concatenate([one.requests.prompt_tokens for one in works])
    generator = np.random.default_rng(0)
    draws = [
        np.concatenate([drawn_outputs(one, basis, generator) for one, basis in zip(works, known, strict=True)])
        for _ in range(DRAWS)
    ]
    shared = sum(int(one.found_tokens.sum()) for one in works) / int(prompts.sum())
    job = Job(
        requests=sum(len(rows) for _, rows in lanes),
        prompt_tokens=TokenCounts.of(prompts.tolist()),
        output_tokens=TokenCounts.of(np.concatenate(draws).tolist()),
        shared_prefix=min(shared, MOST_CACHED),
        prompt_times_output=float(np.mean([prompts * drawn for drawn in draws])),
    )
    model = work.models["full"]
    wish = Wish(deadline_s=work.limits.left_s, weights=(WEIGHTS.get(model.precision, "bf16"),))
    return search(shape_of(model), job, wish, work.catalogue.machines(), work.catalogue.gpu)
