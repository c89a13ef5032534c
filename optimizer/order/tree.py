"""The radix tree of a lane's prompts, by the blocks that an engine can share: 8 bytes a prompt, 12 a branching."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from optimizer.order.external_sort import Keyed, Spill, sorted_keys
from optimizer.order.prefix_keys import WORD_BYTES, prefix_keys
from optimizer.order.ragged import counting

Places = NDArray[np.int64]
Nodes = NDArray[np.int32]
BLOCK_TOKENS = 16  # vLLM's own; an engine of larger blocks shares no more
COMPARED_ROWS = 4096


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Where prompts part. A node stands for the blocks that all prompts below it begin with; node 0 for none."""

    node_of_row: Nodes  # the deepest that a prompt shares with another
    blocks_of_row: Nodes  # of the whole prompt
    parent: Nodes
    depth: Nodes  # blocks from the root
    level: Nodes  # nodes from the root

    @classmethod
    def of_columns(cls, prompts: Iterable[pa.ListArray], spill: Spill, block_tokens: int = BLOCK_TOKENS) -> Self:
        """The tree of a column of token ids, read once, part by part; what memory does not hold goes to `spill`."""
        keys = chain.from_iterable(prefix_keys(part, block_tokens) for part in prompts)
        return cls._of_sorted(sorted_keys(keys, spill))

    @classmethod
    def _of_sorted(cls, keyed: Iterator[Keyed]) -> Self:
        """Walk the prompts in order, with the nodes above the last one at hand, and branch off where one leaves."""
        node_of_place, depth, parent = array("i"), array("i", [0]), array("i", [0])
        sorted_places, blocks = array("q"), array("i")
        path = [0]
        for place, size, shared in _neighbours(keyed):
            left = -1
            while depth[path[-1]] > shared:
                left = path.pop()
            if depth[path[-1]] < shared:
                depth.append(shared)
                parent.append(path[-1])
                path.append(len(depth) - 1)
                if left < 0:
                    node_of_place[-1] = path[-1]
                else:
                    parent[left] = path[-1]
            sorted_places.append(place)
            node_of_place.append(path[-1])
            blocks.append(max(size - 1, 0))
        back = np.empty(len(sorted_places), np.int64)
        back[np.frombuffer(sorted_places, np.int64)] = np.arange(len(back))
        parents = np.array(parent, np.int32)
        return cls(
            np.array(node_of_place, np.int32)[back],
            np.array(blocks, np.int32)[back],
            parents,
            np.array(depth, np.int32),
            _levels(parents),
        )

    def of(self, rows: Places) -> Self:
        """The same tree with these rows alone, in this order."""
        used = np.zeros(len(self.parent), np.bool_)
        used[0] = True
        used[self.node_of_row[rows]] = True
        for nodes in reversed(self.nodes_by_level()[1:]):
            used[self.parent[nodes[used[nodes]]]] = True
        kept = np.flatnonzero(used)
        number = np.cumsum(used, dtype=np.int32) - np.int32(1)
        return type(self)(
            number[self.node_of_row[rows]],
            self.blocks_of_row[rows],
            number[self.parent[kept]],
            self.depth[kept],
            self.level[kept],
        )

    def nodes_by_level(self) -> list[NDArray[np.intp]]:
        """The nodes at each level, from the root down."""
        by_level = np.argsort(self.level, kind="stable")
        return np.split(by_level, np.cumsum(np.bincount(self.level))[:-1])

    def rows_below(self, chosen: NDArray[np.bool_]) -> Places:
        """How many of the chosen rows stand below each node."""
        rows: Places = np.bincount(self.node_of_row[chosen], minlength=len(self.parent))
        for nodes in reversed(self.nodes_by_level()[1:]):
            np.add.at(rows, self.parent[nodes], rows[nodes])
        return rows


def _neighbours(keyed: Iterator[Keyed]) -> Iterator[tuple[int, int, int]]:
    """Of each key its place, its words, and how many of them it begins with that the one before it has as well."""
    last = b""
    while batch := list(islice(keyed, COMPARED_ROWS)):
        keys = [last, *(key for key, _ in batch)]
        sizes = np.array([len(key) // WORD_BYTES for key in keys])
        words = np.frombuffer(b"".join(keys), np.uint64)
        begins = np.cumsum(sizes) - sizes
        compared = np.minimum(sizes[1:], sizes[:-1])
        at = counting(compared)
        same = words[np.repeat(begins[1:], compared) + at] == words[np.repeat(begins[:-1], compared) + at]
        # Words are chained: where two differ, all that follow do.
        sums = np.concatenate([[0], np.cumsum(same)])
        ends = np.cumsum(compared)
        shared = sums[ends] - sums[ends - compared]
        yield from zip((place for _, place in batch), sizes[1:].tolist(), shared.tolist(), strict=True)
        last = keys[-1]


def _levels(parent: Nodes) -> Nodes:
    level = np.zeros(len(parent), np.int32)
    climbing: Places = np.arange(1, len(parent))
    at: Nodes = climbing.astype(np.int32)
    while len(climbing):
        level[climbing] += 1
        at = parent[at]
        climbing, at = climbing[at > 0], at[at > 0]
    return level
