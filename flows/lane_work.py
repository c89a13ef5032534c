"""What is pending in a lane as the planner sees it: lengths, what neighbours have in common, the engine's limits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flows.members import Rows
from flows.open import Work
from flows.requests import answers_of, kv_tokens_of, tables_to_order
from optimizer.planner.workload import NO_GROUP, KvBlocks, Requests
from serving.engine_config import EngineConfig
from serving.engines.fits import GPU_SHARE
from serving.engines.machine import GIB, LEAST_KV_GIB, Machine, kv_bytes_per_number
from serving.engines.open import settled_for
from serving.models.folder import ModelFolder
from serving.models.shape import shape_of
from serving.records import Lane

Counts = NDArray[np.int64]

MOST_PLAYED = 20_000  # rows of a lane; of more, stretches of its order stand for all
STRETCH_ROWS = 1_000
LARGEST_STEP_SHARE = 0.05  # of a GPU's memory


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What is pending in a lane, in the order in which it will be fed; of a large lane, stretches of that order."""

    rows: Rows  # one for each answer
    requests: Requests  # the same, with the most output tokens that each allows
    stands_for: float  # rows of the lane for each of these
    found_tokens: Counts  # of each prompt, what it has in common with the one before it
    config: EngineConfig
    kv: KvBlocks


def lane_work(work: Work, lane: Lane, rows: Rows, slots: int | None = None) -> LaneWork:
    model = work.models[lane.name]
    config, machine = settled_for(work.job.engine, lane, model, work.adapters, kv_tokens_of(work, rows, slots))
    if slots is not None:
        config = replace(config, batching=replace(config.batching, max_num_seqs=slots))
    block = config.cache.block_tokens or 16
    token_bytes = shape_of(model).kv_bytes_per_token(kv_bytes_per_number(config))
    kv = KvBlocks(int(_kv_bytes(config, machine, model) / (block * token_bytes)), block, config.cache.prefix_caching)
    played, requests, found = _requests(work, rows, block)
    return LaneWork(played, requests, len(rows) / len(np.unique(played)), found, config, kv)


def _kv_bytes(config: EngineConfig, machine: Machine, model: ModelFolder) -> float:
    """Of one engine. On a GPU vLLM takes what the weights leave of its share, less what its largest step needs."""
    if config.cache.memory_gib is not None:
        return config.cache.memory_gib * GIB
    share = config.cache.memory_share or GPU_SHARE
    memory = min(gpu.memory_bytes for gpu in machine.gpus) * config.parallelism.ranks
    return max(memory * (share - LARGEST_STEP_SHARE) - model.size_bytes, LEAST_KV_GIB * GIB)


def _requests(work: Work, rows: Rows, block: int) -> tuple[Rows, Requests, Counts]:
    """In their order, with what each has in common with its neighbours in whole blocks."""
    played: list[int] = []
    prompts: list[int] = []
    most: list[int] = []
    found: list[int] = []
    shared: list[int] = []
    groups: list[int] = []
    before: Counts = np.empty(0, np.int64)
    group = NO_GROUP
    for row, ids, allowed in _played(work, rows):
        common = _in_common(before, ids) // block * block
        if not common:
            group += 1
        elif shared:
            shared[-1] = max(shared[-1], common)
        played.append(row)
        prompts.append(max(1, len(ids)))
        most.append(allowed)
        found.append(common)
        shared.append(common)
        groups.append(group)
        before = ids
    columns = (np.array(column, np.int64) for column in (prompts, most, groups, shared))
    return np.array(played, np.int64), Requests(*columns), np.array(found, np.int64)


def _in_common(one: Counts, other: Counts) -> int:
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def _played(work: Work, rows: Rows) -> Iterator[tuple[int, Counts, int]]:
    """Rows, their prompts and the most that an answer may put out, once for each answer, in planned order; of many
    rows, some stretches."""
    every = max(1, len(rows) // MOST_PLAYED)
    at = 0
    for table in tables_to_order(work, rows, ["row", "sampling", "prompt_token_ids"]):
        most, answers = (column.tolist() for column in answers_of(table["sampling"]))
        columns = (table["row"].to_pylist(), table["prompt_token_ids"], most, answers)
        for row, ids, allowed, times in zip(*columns, strict=True):
            if at // STRETCH_ROWS % every == 0:
                yield from [(row, np.asarray(ids.values, np.int64), allowed)] * times
            at += 1
