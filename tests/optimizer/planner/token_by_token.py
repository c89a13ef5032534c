"""The scheduler as slow as it is plain: every step, every sequence, every block. What the fast one is held to."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimizer.planner.workload import KvBlocks, Requests
from serving.engine_config import Batching

Key = tuple[object, ...]  # equal for blocks that hold the same tokens behind the same tokens


@dataclass(slots=True, eq=False)
class Block:
    key: Key | None = None
    holders: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    row: int
    tokens: int  # of its prompt and of its answer so far
    outputs_left: int
    keys: Callable[[int], Key]
    computed: int = 0
    blocks: list[Block] = field(default_factory=list)
    lost: int = 0  # tokens that it had in the cache when it was preempted
    decoding: bool = False


@dataclass(slots=True)
class Step:
    seconds: float
    computed: int
    seats: int
    held_blocks: int
    decodes: int
    first_tokens: int


@dataclass(slots=True)
class Played:
    steps: list[Step]
    makespan_s: float
    first_scheduled_s: list[float]
    first_token_s: list[float]
    finish_s: list[float]
    finish_order: list[int]
    preemptions: int
    prefix_hit_tokens: int
    recomputed_tokens: int
    prefilled_tokens: int
    last_admission_s: float


class Pool:
    def __init__(self, kv: KvBlocks) -> None:
        self.kv = kv
        self.free = [Block() for _ in range(kv.blocks)]  # the next to be handed out first
        self.found: dict[Key, list[Block]] = defaultdict(list)

    def take(self, count: int) -> list[Block]:
        taken, self.free = self.free[:count], self.free[count:]
        for block in taken:
            if block.key is not None:
                self.found[block.key].remove(block)
            block.key, block.holders = None, 1
        return taken

    def hold(self, blocks: list[Block]) -> None:
        for block in blocks:
            if not block.holders:
                self.free.remove(block)
            block.holders += 1

    def name(self, block: Block, key: Key) -> None:
        if self.kv.prefix_caching and block.key is None:
            block.key = key
            self.found[key].append(block)

    def release(self, blocks: list[Block]) -> None:
        for block in blocks:
            block.holders -= 1
        freed = [block for block in reversed(blocks) if not block.holders]
        self.free = [block for block in freed if block.key is None] + self.free
        self.free += [block for block in freed if block.key is not None]


def play(
    requests: Requests, batching: Batching, kv: KvBlocks, step_seconds: Callable[[int, int, int, int], float]
) -> Played:
    size, pool = kv.block_tokens, Pool(kv)
    waiting = [sequence_of(requests, row, size) for row in range(len(requests))]
    running: list[Sequence] = []
    ended: list[Sequence] = []
    begun: set[int] = set()
    nothing = [float("nan")] * len(requests)
    played = Played([], 0.0, [*nothing], [*nothing], [*nothing], [], 0, 0, 0, 0, 0.0)

    def blocks_of(tokens: int) -> int:
        return -(-tokens // size)

    def allocate(sequence: Sequence, tokens: int) -> bool:
        needed = blocks_of(sequence.computed + tokens) - len(sequence.blocks)
        if needed > len(pool.free):
            return False
        sequence.blocks += pool.take(needed)
        # With async scheduling the token that it computes is still to come, and its block cannot be named.
        known = sequence.tokens - (sequence.decoding and batching.async_scheduling is not False)
        for place in range(min(sequence.computed + tokens, known) // size):
            pool.name(sequence.blocks[place], sequence.keys(place))
        return True

    def preempt(sequence: Sequence) -> None:
        running.remove(sequence)
        pool.release(sequence.blocks)
        sequence.blocks = []
        played.preemptions += 1
        if sequence in ended:
            ended.remove(sequence)
            return
        sequence.lost, sequence.computed, sequence.decoding = sequence.computed, 0, False
        waiting.insert(0, sequence)

    while waiting or running:
        now, budget, preempted = played.makespan_s, batching.max_num_batched_tokens, False
        scheduled: list[tuple[Sequence, int]] = []
        place = 0
        while place < len(running) and budget:
            sequence = running[place]
            tokens = min(sequence.tokens - sequence.computed, budget)
            if sequence in ended:
                place += 1
                continue
            while not (fits := allocate(sequence, tokens)):
                preempted = True
                victim = running[-1]
                preempt(victim)
                if victim is sequence:
                    break
            if not fits:
                break
            scheduled.append((sequence, tokens))
            budget -= tokens
            place += 1
        while not preempted and waiting and budget and len(running) < batching.max_num_seqs:
            sequence = waiting[0]
            hits: list[Block] = []
            for place in range((sequence.tokens - 1) // size):
                same = pool.found.get(sequence.keys(place))
                if not same:
                    break
                hits.append(same[0])
            left = sequence.tokens - len(hits) * size
            if left > budget and not batching.chunked_prefill:
                break
            freed = sum(not block.holders for block in hits)
            if blocks_of(sequence.tokens) - len(hits) + freed > len(pool.free):
                break
            pool.hold(hits)
            sequence.blocks, sequence.computed = hits, len(hits) * size
            assert allocate(sequence, min(left, budget))
            scheduled.append((sequence, min(left, budget)))
            budget -= min(left, budget)
            running.append(waiting.pop(0))
            played.last_admission_s = now
            if sequence.row in begun:
                played.recomputed_tokens += sequence.lost - sequence.computed
            else:
                begun.add(sequence.row)
                played.first_scheduled_s[sequence.row] = now
                played.prefix_hit_tokens += sequence.computed
        decodes = [each for each, _ in scheduled if each.decoding]
        prefills = [(each, tokens) for each, tokens in scheduled if not each.decoding]
        prefilled = sum(tokens for _, tokens in prefills)
        looked_at = sum(sum(each.computed + 1 + place for place in range(tokens)) for each, tokens in prefills)
        seconds = (
            step_seconds(prefilled, looked_at, len(decodes), sum(each.tokens for each in decodes)) if scheduled else 0.0
        )
        played.makespan_s += seconds
        played.prefilled_tokens += prefilled
        ended_now, first_tokens = [], 0
        for sequence, tokens in scheduled:
            sequence.computed += tokens
            if sequence.computed < sequence.tokens:
                continue
            first_tokens += not sequence.decoding
            sequence.decoding = True
            if np.isnan(played.first_token_s[sequence.row]):
                played.first_token_s[sequence.row] = played.makespan_s
            sequence.outputs_left -= 1
            sequence.tokens += 1
            if not sequence.outputs_left:
                played.finish_s[sequence.row] = played.makespan_s
                played.finish_order.append(sequence.row)
                ended_now.append(sequence)
        if scheduled:
            held = kv.blocks - len(pool.free)
            computed = sum(tokens for _, tokens in scheduled)
            played.steps.append(Step(seconds, computed, len(running), held, len(decodes), first_tokens))
        if batching.async_scheduling is not False:
            ended, ended_now = ended_now, ended
        for sequence in ended_now:
            running.remove(sequence)
            for place in range(sequence.computed // size):
                pool.name(sequence.blocks[place], sequence.keys(place))
            pool.release(sequence.blocks)
    return played


def sequence_of(requests: Requests, row: int, block_tokens: int) -> Sequence:
    shared, group = 0, -1
    if requests.prefix_group is not None and requests.shared_tokens is not None and requests.prefix_group[row] >= 0:
        shared, group = int(requests.shared_tokens[row]) // block_tokens, int(requests.prefix_group[row])

    def keys(place: int) -> Key:
        return ("group", group, place) if place < shared else ("row", row, place)

    return Sequence(row, int(requests.prompt_tokens[row]), int(requests.output_tokens[row]), keys)
