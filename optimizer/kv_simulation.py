"""What an engine does with an order: prefix hits under a KV budget, and when the last prompt ends.

A model of vLLM's V1 scheduler. Blocks have chained identities; a running prompt holds its blocks; a freed block stays
found until it is taken for another, the least recently freed first and of one prompt the last block first. Prompts are
admitted in order, never past one that does not fit. A running prompt that finds no block for its next tokens sends the
youngest back to the head of the queue, to be computed again. Prompts are computed in the step that admits them.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

Blocks = list[list[int]]  # by prompt, its full blocks; equal numbers are equal chains


@dataclass(frozen=True, slots=True)
class Engine:
    slots: int
    kv_blocks: int | None  # None: every block that was ever computed stays found
    block_tokens: int = 16
    # SmolLM2-135M in float32 on two AVX2 cores; only their ratios matter to an order.
    step_s: float = 0.006
    prefill_s_per_token: float = 0.0011
    decode_s_per_token: float = 0.0009


@dataclass(frozen=True, slots=True)
class Outcome:
    prompt_tokens: int
    hit_tokens: int  # of each prompt's first admission, as vLLM counts cached tokens
    steps: int
    makespan_s: float
    preemptions: int

    @property
    def hit_share(self) -> float:
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class KvTooSmall(ValueError):
    """A prompt and its answer do not fit in the cache alone."""


@dataclass(slots=True, eq=False)
class _Sequence:
    row: int
    output_tokens: int
    held: list[int]  # blocks, in the order of its tokens; numbers below 0 are found by nobody
    done: int = 0  # output tokens so far
    counted: int = 0  # the step up to which `done` counts
    event: int = 0  # the step at which it ends or needs a block


def chained_blocks(prompts: Iterable[Sequence[int]], block_tokens: int) -> Blocks:
    """The identity of each full block: of its tokens and of the block before it."""
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    found = []
    for prompt in prompts:
        before, blocks = -1, []
        for start in range(0, len(prompt) - block_tokens + 1, block_tokens):
            before = known.setdefault((before, tuple(prompt[start : start + block_tokens])), len(known))
            blocks.append(before)
        found.append(blocks)
    return found


def distinct_blocks(blocks: Blocks) -> int:
    return len({block for prompt in blocks for block in prompt})


def budget_blocks(
    prompts: Sequence[Sequence[int]], output_tokens: Sequence[int], block_tokens: int, share: float
) -> int:
    """Room for this share of the distinct prompt blocks, and never less than the largest prompt and answer take."""
    room = int(share * distinct_blocks(chained_blocks(prompts, block_tokens)))
    pairs = zip(prompts, output_tokens, strict=True)
    return max(room, *(-(-(len(prompt) + tokens) // block_tokens) for prompt, tokens in pairs))


def simulate(
    prompts: Sequence[Sequence[int]], output_tokens: Sequence[int], order: Iterable[int], engine: Engine
) -> Outcome:
    """Raises KvTooSmall."""
    return _Run(prompts, output_tokens, engine).to_the_end(order)


class _Run:
    def __init__(self, prompts: Sequence[Sequence[int]], output_tokens: Sequence[int], engine: Engine) -> None:
        self._prompts, self._output_tokens, self._engine = prompts, output_tokens, engine
        self._chained = chained_blocks(prompts, engine.block_tokens)
        lengths = zip(prompts, output_tokens, strict=True)
        everything = sum(1 + (len(prompt) + tokens) // engine.block_tokens for prompt, tokens in lengths)
        self._untouched = everything if engine.kv_blocks is None else engine.kv_blocks
        self._freed: OrderedDict[int, None] = OrderedDict()  # free blocks that still hold something, oldest first
        self._holders: Counter[int] = Counter()
        self._nameless = count(-1, -1)
        self._running: dict[int, _Sequence] = {}  # by row, oldest first
        self._events: list[tuple[int, int]] = []  # (step, row)
        self._step = self._hits = self._preemptions = 0
        self._seconds = 0.0

    def to_the_end(self, order: Iterable[int]) -> Outcome:
        queue = deque(_Sequence(row, self._output_tokens[row], []) for row in order)
        prompt_tokens = sum(len(self._prompts[sequence.row]) for sequence in queue)
        while queue or self._running:
            while queue and len(self._running) < self._engine.slots and self._admit(queue[0]):
                queue.popleft()
            if not self._running:
                tokens = len(self._prompts[queue[0].row]) + queue[0].done
                raise KvTooSmall(
                    f"{self._engine.kv_blocks} blocks cannot hold the {tokens} tokens of row {queue[0].row}"
                )
            self._advance(queue)
        return Outcome(prompt_tokens, self._hits, self._step, self._seconds, self._preemptions)

    def _admit(self, sequence: _Sequence) -> bool:
        """Give it its blocks, if there are enough; what it finds it need not compute."""
        engine, chained = self._engine, self._chained[sequence.row]
        tokens = len(self._prompts[sequence.row]) + sequence.done
        findable = chained[: max(tokens - 1, 0) // engine.block_tokens]  # the last token is always computed
        hits = list(takewhile(self._is_found, findable))
        needed = -(-tokens // engine.block_tokens)
        if needed - len(hits) > self._untouched + len(self._freed) - sum(block in self._freed for block in hits):
            return False
        for block in hits:
            self._freed.pop(block, None)
        fresh = [next(self._nameless) if self._is_found(block) else block for block in chained[len(hits) :]]
        sequence.held = hits + fresh + [next(self._nameless) for _ in range(needed - len(chained))]
        for _ in range(needed - len(hits)):
            self._take_one()
        self._holders.update(sequence.held)
        self._seconds += engine.prefill_s_per_token * (tokens - len(hits) * engine.block_tokens)
        if not sequence.done:
            self._hits += len(hits) * engine.block_tokens
        sequence.counted = self._step
        self._running[sequence.row] = sequence
        self._await_event(sequence)
        return True

    def _advance(self, queue: deque[_Sequence]) -> None:
        """To the next step at which something happens: answers that end first, then those that need a block."""
        step = self._events[0][0]
        each_s = self._engine.step_s + self._engine.decode_s_per_token * len(self._running)
        self._seconds += (step - self._step) * each_s
        self._step = step
        due = []
        while self._events and self._events[0][0] == step:
            sequence = self._running.get(heapq.heappop(self._events)[1])
            if sequence is not None and sequence.event == step and sequence not in due:
                self._count(sequence)
                due.append(sequence)
        for sequence in due:
            if sequence.done >= sequence.output_tokens:
                self._release(sequence)
        for sequence in due:
            if sequence.row in self._running:
                self._grow(sequence, queue)

    def _grow(self, sequence: _Sequence, queue: deque[_Sequence]) -> None:
        while not self._untouched and not self._freed:
            youngest = self._running[next(reversed(self._running))]
            self._count(youngest)
            self._release(youngest)
            queue.appendleft(youngest)
            self._preemptions += 1
            if youngest is sequence:
                return
        self._take_one()
        sequence.held.append(next(self._nameless))
        self._holders[sequence.held[-1]] = 1
        self._await_event(sequence)

    def _await_event(self, sequence: _Sequence) -> None:
        # The last token that was drawn is not in the cache before the step after it.
        room = 1 + len(sequence.held) * self._engine.block_tokens - len(self._prompts[sequence.row]) - sequence.done
        sequence.event = self._step + min(room, sequence.output_tokens - sequence.done)
        heapq.heappush(self._events, (sequence.event, sequence.row))

    def _count(self, sequence: _Sequence) -> None:
        sequence.done += self._step - sequence.counted
        sequence.counted = self._step

    def _release(self, sequence: _Sequence) -> None:
        del self._running[sequence.row]
        for block in reversed(sequence.held):
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
                self._freed[block] = None

    def _is_found(self, block: int) -> bool:
        return block in self._holders or block in self._freed

    def _take_one(self) -> None:
        if self._untouched:
            self._untouched -= 1
        else:
            self._freed.popitem(last=False)
