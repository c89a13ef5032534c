"""A plan's engine played through: vLLM's scheduler on drawn lengths, instead of its steady state."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.kv_simulation import KvTooSmall
from optimizer.planner.closed_form import ClosedForm
from optimizer.planner.guessing import tokens_a_step
from optimizer.planner.job import ACCEPTANCE_ASSUMED
from optimizer.planner.layouts import BLOCK_TOKENS, cache_tokens
from optimizer.planner.simulation import Simulation, simulate
from optimizer.planner.step_times import OverArrays
from optimizer.planner.workload import KvBlocks, Requests
from serving.engine_config import Batching, ModelShape

Numbers = NDArray[np.float64]

DRAWS = 4  # of lengths, each played once
WAVES = 3  # of full batches that are played; what comes between the second and the last is more of the same
FEWEST_ROWS, MOST_ROWS = 256, 3072


def played_seconds(
    shape: ModelShape, speeds: ClosedForm, place: int, requests: float, draws: int = DRAWS, seed: int = 0
) -> Numbers | None:
    """Run times of so many requests on one engine, one for each draw of their lengths, ascending.

    A long job is played from its start and to its end, with its middle added at the rate of the middle that was played.
    None: what a sequence keeps cannot be told in blocks, as with windows.
    """
    one = speeds.at(np.array([place]))
    running = float(np.asarray(one.full.sequences)[0])
    rows = max(1, round(min(requests, max(FEWEST_ROWS, WAVES * running), MOST_ROWS)))
    games = []
    for generator in np.random.default_rng(seed).spawn(draws):
        try:
            games.append(_game(shape, one, rows, generator))
        except KvTooSmall:
            return None
    tokens_a_step = _tokens_a_step(one)
    rate = float(np.mean([game.rate_tokens_per_s for game in games]))
    more = max(requests - rows, 0.0) * one.job.output_tokens.mean / tokens_a_step
    middle_s = more / rate if more else 0.0
    return np.sort([game.makespan_s * min(1.0, requests / rows) + middle_s for game in games])


def _game(shape: ModelShape, one: ClosedForm, rows: int, generator: np.random.Generator) -> Simulation:
    job, engine = one.job, one.engines.one(0)
    prompt = job.prompt_tokens.drawn(rows, generator)
    output = job.output_tokens.drawn(rows, generator)
    steps = np.maximum(np.ceil(output / _tokens_a_step(one)), 1).astype(np.int64)
    shared = np.floor(prompt * job.shared_prefix).astype(np.int64) if job.shared_prefix else None
    group = np.zeros(rows, np.int64) if shared is not None else None
    alone = replace(job, shared_prefix=0.0)  # here blocks that are shared are counted as such
    tokens, _ = cache_tokens(shape, alone, engine.layout, one.engines.sequences, one.engines.batched_tokens)
    kv = KvBlocks(int(tokens[0] // BLOCK_TOKENS), BLOCK_TOKENS)
    batching = Batching(max_num_seqs=engine.max_num_seqs, max_num_batched_tokens=engine.max_num_batched_tokens)
    step_seconds = OverArrays(lambda *columns: np.asarray(one.cost.seconds(*columns)))
    return simulate(Requests(prompt, steps, group, shared), batching, kv, step_seconds)


def _tokens_a_step(one: ClosedForm) -> float:
    acceptance = ACCEPTANCE_ASSUMED if one.job.acceptance is None else one.job.acceptance
    return float(tokens_a_step(acceptance, one.engines.guessed)[0])
