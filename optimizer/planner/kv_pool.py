"""The KV blocks of one engine, counted rather than named, as vLLM's block pool hands them out and takes them back.

A block that was freed keeps what it holds until it is handed out again: first those that hold nothing to be found, then
the least recently freed. Of one sequence the last block is freed first, and whoever holds a block of a chain holds all
before it; so a chain loses blocks only from its end, and one number says what is left of it.
"""

from collections import Counter, deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Chain:
    """Blocks that one can find by what comes before them: those of a shared prefix, or a preempted request's own."""

    found: int = 0  # the first so many are in the cache
    held: int = 0  # of these, the first so many are in use; the others are free until they are handed out
    _holders: Counter[int] = field(default_factory=Counter)  # by how many of its blocks they hold
    _freed: "deque[_Freed]" = field(default_factory=deque)  # oldest first; the chain's last blocks are in the oldest


@dataclass(slots=True, eq=False)
class _Freed:
    """Neighbours in the queue of free blocks. Without a chain nobody finds what they hold."""

    chain: Chain | None
    blocks: int


class KvPool:
    def __init__(self, blocks: int) -> None:
        self.free = blocks
        self._blank = blocks  # of the free: those that hold nothing
        self._queue: deque[_Freed] = deque()  # the other free ones, next to be handed out first

    def take(self, blocks: int) -> None:
        """Hand out free blocks; there must be so many."""
        self.free -= blocks
        self._blank -= blocks
        while self._blank < 0:
            oldest = self._queue[0]
            evicted = min(oldest.blocks, -self._blank)
            self._blank += evicted
            oldest.blocks -= evicted
            chain = oldest.chain
            if chain is not None and evicted:
                chain.found -= evicted
                if not oldest.blocks:
                    chain._freed.popleft()
            if not oldest.blocks:
                self._queue.popleft()

    def freed_among(self, chain: Chain, blocks: int) -> int:
        """How many of a chain's first blocks are free: what a request that holds them leaves fewer for others."""
        return max(0, min(blocks, chain.found) - chain.held)

    def hold(self, chain: Chain, blocks: int) -> None:
        """Begin to hold the first blocks of a chain; all of them are found."""
        chain._holders[blocks] += 1
        wanted = blocks - chain.held
        if wanted <= 0:
            return
        chain.held = blocks
        self.free -= wanted
        while wanted:
            newest = chain._freed[-1]
            kept = min(newest.blocks, wanted)
            newest.blocks -= kept
            wanted -= kept
            if not newest.blocks:
                chain._freed.pop()  # it stays in the queue, empty

    def lengthen(self, chain: Chain, before: int, after: int) -> None:
        """A holder of all that is found of a chain has computed more of it, in blocks that it took."""
        self._let_go(chain, before)
        chain._holders[after] += 1
        chain.found = chain.held = after

    def release(self, chain: Chain | None, chain_blocks: int, own_blocks: int, blank_blocks: int) -> None:
        """Free what a request holds: the first blocks of a chain, full ones of its own, and any that hold nothing."""
        self._append(None, own_blocks)
        self.free += blank_blocks
        self._blank += blank_blocks
        if chain is not None:
            self._let_go(chain, chain_blocks)
            held = max(chain._holders, default=0)
            self._append(chain, chain.held - held)
            chain.held = held

    def keep(self, blocks: int) -> Chain:
        """Free full blocks of a request that will look for them again."""
        own = Chain(found=blocks)
        self._append(own, blocks)
        return own

    def _append(self, chain: Chain | None, blocks: int) -> None:
        if not blocks:
            return
        self.free += blocks
        if chain is None and self._queue and self._queue[-1].chain is None:
            self._queue[-1].blocks += blocks
            return
        self._queue.append(_Freed(chain, blocks))
        if chain is not None:
            chain._freed.append(self._queue[-1])

    def _let_go(self, chain: Chain, blocks: int) -> None:
        chain._holders[blocks] -= 1
        if not chain._holders[blocks]:
            del chain._holders[blocks]
