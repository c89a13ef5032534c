"""What vLLM's V1 scheduler computes in each step of a job; how long a step takes does not change that.

All requests are there from the beginning. In a step, running sequences come first, in the order of their admission: one
token each for those that decode, and for the one whose prompt is not done as much of it as the token budget leaves. One
that finds no block sends the youngest back to the head of the queue, to be computed again, but for full blocks of it
that are still in the cache when it returns. If none was sent back, the queue is admitted in order while there are
seats, budget and blocks for the whole prompt; nobody passes one that does not fit. (vllm/v1/core/sched/scheduler.py of
0.32, FCFS, without speculation.)

Between two steps in which one of these things happens, the same sequences get one token each: one run of steps.
"""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from optimizer.kv_simulation import KvTooSmall
from optimizer.planner.kv_pool import Chain, KvPool
from optimizer.planner.workload import NO_GROUP, Counts, KvBlocks, Requests
from serving.engine_config import Batching

_NOT_DECODING = -1


@dataclass(frozen=True, slots=True)
class Schedule:
    """Runs of like steps, one element a run; and of each request, one element each, in which runs things happened.

    Steps of a run differ in nothing but the context: in each, a sequence looks at one more token.
    """

    steps: Counts
    prefill_tokens: Counts  # of each step; not 0 in runs of one step only
    prefill_context_tokens: Counts
    decode_sequences: Counts
    decode_context_tokens: Counts  # of the first step
    sequences: Counts  # that decode or prefill
    first_tokens: Counts  # answers that began at the end of the run
    held_blocks: Counts  # at the end, where it is most
    first_scheduled_run: Counts
    first_token_run: Counts
    finish_run: Counts
    last_admission_run: int  # nobody waits after it
    preemptions: int  # as vLLM counts them: also those of answers whose end it did not know yet
    prefix_hit_tokens: int  # that requests found when they first began
    recomputed_tokens: int  # that preempted ones had in the cache and no longer found

    @property
    def generated_tokens(self) -> Counts:
        """By run."""
        generated: Counts = self.steps * self.decode_sequences + self.first_tokens
        return generated


def schedule(requests: Requests, batching: Batching, kv: KvBlocks, *, every_step: bool = False) -> Schedule:
    """`every_step` goes step by step, in runs of one. Raises KvTooSmall, or ValueError for limits that vLLM refuses."""
    _check(requests, batching, kv)
    return _Scheduler(requests, batching, kv, every_step).to_the_end()


def _check(requests: Requests, batching: Batching, kv: KvBlocks) -> None:
    if batching.max_num_batched_tokens < batching.max_num_seqs:
        raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
    if not len(requests):
        return
    tokens = requests.prompt_tokens + requests.output_tokens - 1  # the last token is never put in the cache
    row = int(tokens.argmax())
    if -(-int(tokens[row]) // kv.block_tokens) > kv.blocks:
        raise KvTooSmall(f"{kv.blocks} blocks cannot hold the {tokens[row]} tokens of row {row}")
    if not batching.chunked_prefill and tokens[row] > batching.max_num_batched_tokens:
        raise ValueError(f"without chunked prefill, {tokens[row]} tokens of row {row} need max_num_batched_tokens")


class _Scheduler:
    def __init__(self, requests: Requests, batching: Batching, kv: KvBlocks, every_step: bool) -> None:
        rows = len(requests)
        self._seats, self._budget = batching.max_num_seqs, batching.max_num_batched_tokens
        self._chunked = batching.chunked_prefill
        # With it, a step is scheduled before it is known who ended in the one before.
        self._late_release = batching.async_scheduling is not False
        self._kv, self._block_tokens, self._every_step = kv, kv.block_tokens, every_step
        self._pool = KvPool(kv.blocks)
        # By row.
        self._prompt_tokens: list[int] = requests.prompt_tokens.tolist()
        self._output_tokens: list[int] = requests.output_tokens.tolist()
        self._done = [0] * rows  # output tokens; not kept up while it decodes
        self._computed = [0] * rows  # tokens in the cache; while it decodes, less the step
        self._opens = [_NOT_DECODING] * rows  # in steps of which remainder it begins a block, while it decodes
        self._chain_blocks = [0] * rows  # of its blocks, those that it holds of its group's chain
        self._admission = [0] * rows
        self._first_scheduled, self._first_token, self._finish = [-1] * rows, [-1] * rows, [-1] * rows
        self._chain, self._shared_blocks = _chains(requests, kv)
        self._own: dict[int, Chain] = {}  # of those that were preempted
        # Of now.
        self._waiting = deque(range(rows))
        self._running: dict[int, None] = {}  # rows, oldest first
        self._partial: int | None = None  # the one whose prompt is not done; always the youngest
        self._lengthens = False  # it computes blocks of its group's chain
        self._ended: list[int] = []  # hold their seats for one more step
        self._ends: list[tuple[int, int, int]] = []  # (last step, admission, row); some are out of date
        self._step = self._admissions = 0
        self._decoding = 0  # sequences
        self._context = 0  # tokens that these have in the cache
        self._opening = [0] * kv.block_tokens  # how many of them begin a block, by the step's remainder
        # What is told.
        self._runs: list[tuple[int, ...]] = []
        self._last_admission_run = 0
        self._preemptions = self._hits = self._recomputed = 0
        self._lost: dict[int, int] = {}  # tokens that a preempted one had in the cache

    def to_the_end(self) -> Schedule:
        while self._waiting or self._running:
            self._run()
        steps, prefill, prefill_context, decoding, context, sequences, begun, held = (
            np.array(self._runs, np.int64).reshape(-1, 8).T.copy()
        )
        return Schedule(
            steps=steps,
            prefill_tokens=prefill,
            prefill_context_tokens=prefill_context,
            decode_sequences=decoding,
            decode_context_tokens=context,
            sequences=sequences,
            first_tokens=begun,
            held_blocks=held,
            first_scheduled_run=np.array(self._first_scheduled, np.int64),
            first_token_run=np.array(self._first_token, np.int64),
            finish_run=np.array(self._finish, np.int64),
            last_admission_run=self._last_admission_run,
            preemptions=self._preemptions,
            prefix_hit_tokens=self._hits,
            recomputed_tokens=self._recomputed,
        )

    def _run(self) -> None:
        preempted = self._grow()
        budget = self._budget - self._decoding
        decoding, context = self._decoding, self._context + self._decoding
        begun = []  # whose prompt is done in this step
        tokens = pairs = sequences = 0
        while budget:
            if self._partial is not None:
                row, chunk = self._partial, self._continue(budget)
                preempted |= chunk == 0
            elif preempted:
                break
            else:
                row, chunk = self._admit(budget)
            if not chunk:
                break
            computed = self._computed[row]  # with the chunk
            tokens += chunk
            pairs += chunk * (computed - chunk) + chunk * (chunk + 1) // 2
            sequences += 1
            budget -= chunk
            if self._partial is None:
                begun.append(row)
        if tokens + decoding:
            steps = 1 if tokens or preempted else self._like_steps()
            held = self._kv.blocks - self._pool.free
            self._runs.append((steps, tokens, pairs, decoding, context, decoding + sequences, len(begun), held))
            self._step += steps
            self._context += steps * decoding
        self._end(begun)

    def _grow(self) -> bool:
        """Give those that decode the blocks that they begin in this step. True if someone was preempted for it."""
        remainder = self._step % self._block_tokens
        needed = self._opening[remainder]
        if needed <= self._pool.free:
            self._pool.take(needed)
            return False
        for row in list(self._running):
            if row not in self._running:
                break
            if self._opens[row] != remainder:
                continue
            while not self._pool.free:
                youngest = next(reversed(self._running))
                self._preempt(youngest)
                if youngest == row:
                    return True
            self._pool.take(1)
        return True

    def _continue(self, budget: int) -> int:
        """The next chunk of the prompt that is not done; 0 if it had to be sent back, as it finds no blocks."""
        row = self._partial
        assert row is not None
        computed, tokens = self._computed[row], self._prompt_tokens[row] + self._done[row]
        chunk = min(tokens - computed, budget)
        needed = self._blocks_of(computed + chunk) - self._blocks_of(computed)
        if needed > self._pool.free:
            self._preempt(row)
            return 0
        self._pool.take(needed)
        self._compute(row, computed + chunk, tokens)
        return chunk

    def _admit(self, budget: int) -> tuple[int, int]:
        """The head of the queue and how much of it is computed; 0 if it has to wait."""
        if not self._waiting or len(self._running) >= self._seats:
            return -1, 0
        row = self._waiting[0]
        tokens = self._prompt_tokens[row] + self._done[row]
        chain, own = self._chain[row], self._own.get(row)
        hits = own_hits = freed = 0
        if chain is not None:
            hits = min(self._shared_blocks[row], chain.found, (tokens - 1) // self._block_tokens)
            if own is not None:
                hits = min(hits, self._chain_blocks[row])
            freed = self._pool.freed_among(chain, hits)
        if own is not None and hits == self._chain_blocks[row]:
            own_hits = own.found
        found = hits + own_hits
        # All of the prompt has to fit, even if it is computed in chunks: scheduler_reserve_full_isl.
        if self._blocks_of(tokens) - found + freed + own_hits > self._pool.free:
            return row, 0
        computed = found * self._block_tokens
        chunk = tokens - computed
        if chunk > budget:
            if not self._chunked:
                return row, 0
            chunk = budget
        if chain is not None:
            self._lengthens = hits == chain.found and not own_hits
            self._pool.hold(chain, hits)
        if own is not None:
            self._pool.hold(own, own_hits)
            del self._own[row]
        self._pool.take(self._blocks_of(computed + chunk) - found)
        self._chain_blocks[row] = hits
        self._enter(row, computed)
        self._compute(row, computed + chunk, tokens)
        return row, chunk

    def _enter(self, row: int, found_tokens: int) -> None:
        self._waiting.popleft()
        self._running[row] = None
        self._admissions += 1
        self._admission[row] = self._admissions
        self._last_admission_run = len(self._runs)
        if self._first_scheduled[row] < 0:
            self._first_scheduled[row] = len(self._runs)
            self._hits += found_tokens
        else:
            self._recomputed += self._lost.pop(row) - found_tokens

    def _compute(self, row: int, computed: int, tokens: int) -> None:
        self._computed[row] = computed
        self._partial = row if computed < tokens else None
        chain = self._chain[row]
        if chain is not None and self._lengthens:
            before = self._chain_blocks[row]
            after = max(before, min(self._shared_blocks[row], computed // self._block_tokens))
            if after > before:
                self._pool.lengthen(chain, before, after)
                self._chain_blocks[row] = after

    def _like_steps(self) -> int:
        """How many steps are like this one, itself included; takes the blocks that the others begin."""
        while self._admission[self._ends[0][2]] != self._ends[0][1]:
            heapq.heappop(self._ends)
        most = self._ends[0][0] - self._step
        if not most or self._ended or self._every_step:
            return 1
        free, decoding = self._pool.free, self._decoding
        rounds = min(most // self._block_tokens, free // decoding)  # in each, everyone begins one block
        steps, blocks = rounds * self._block_tokens, rounds * decoding
        while steps < most:
            opening = self._opening[(self._step + 1 + steps) % self._block_tokens]
            if blocks + opening > free:
                break
            steps += 1
            blocks += opening
        self._pool.take(blocks)
        return steps + 1

    def _end(self, begun: list[int]) -> None:
        """What becomes of the sequences when the last step of the run is done."""
        last = self._step - 1
        ended = []
        while self._ends and self._ends[0][0] <= last:
            _, admission, row = heapq.heappop(self._ends)
            if self._admission[row] == admission:
                self._stop_decoding(row)
                ended.append(row)
        run = len(self._runs) - 1
        for row in begun:
            self._done[row] += 1
            if self._first_token[row] < 0:
                self._first_token[row] = run
            left = self._output_tokens[row] - self._done[row]
            if left:
                self._decode(row, left)
            else:
                ended.append(row)
        for row in ended:
            self._finish[row] = run
        if self._late_release:
            ended, self._ended = self._ended, ended
        for row in ended:
            del self._running[row]
            self._release(row)

    def _decode(self, row: int, left: int) -> None:
        computed = self._computed[row]
        self._opens[row] = (self._step - computed) % self._block_tokens
        self._opening[self._opens[row]] += 1
        self._computed[row] = computed - self._step
        self._decoding += 1
        self._context += computed
        heapq.heappush(self._ends, (self._step + left - 1, self._admission[row], row))

    def _stop_decoding(self, row: int) -> None:
        self._opening[self._opens[row]] -= 1
        self._opens[row] = _NOT_DECODING
        self._computed[row] += self._step
        self._decoding -= 1
        self._context -= self._computed[row]

    def _preempt(self, row: int) -> None:
        del self._running[row]
        self._admission[row] = 0
        self._preemptions += 1
        if row in self._ended:
            self._ended.remove(row)
            self._release(row)
            return
        unnamed = 0
        if self._opens[row] != _NOT_DECODING:
            self._stop_decoding(row)
            done = self._computed[row] + 1 - self._prompt_tokens[row]
            # What a decoding step computes has no name before its token is known, with async scheduling a step later.
            unnamed = int(self._late_release and done > self._done[row])
            self._done[row] = done
        self._partial = None
        self._lost[row] = self._computed[row]
        self._release(row, unnamed, returns=True)
        self._waiting.appendleft(row)

    def _release(self, row: int, unnamed_tokens: int = 0, returns: bool = False) -> None:
        computed, shared = self._computed[row], self._chain_blocks[row]
        named = computed - unnamed_tokens
        full = named // self._block_tokens - shared if self._kv.prefix_caching else 0
        blank = self._blocks_of(computed) - shared - full
        if returns and full:
            self._own[row] = self._pool.keep(full)
            full = 0
        self._pool.release(self._chain[row], shared, full, blank)

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)


def _chains(requests: Requests, kv: KvBlocks) -> tuple[list[Chain | None], list[int]]:
    """By row, its group's chain and how many of its blocks are in the row's prompt."""
    if requests.prefix_group is None or requests.shared_tokens is None or not kv.prefix_caching:
        return [None] * len(requests), [0] * len(requests)
    chains = {group: Chain() for group in np.unique(requests.prefix_group).tolist() if group != NO_GROUP}
    return (
        [chains.get(group) for group in requests.prefix_group.tolist()],
        (requests.shared_tokens // kv.block_tokens).tolist(),
    )
