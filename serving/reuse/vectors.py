"""The vectors of texts, kept in the run folder block by block: embedding that was killed goes on where it stopped."""

import io
import mmap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.reuse.embed import Vectors
from serving.reuse.nearest import Places
from serving.store.durable import drop_unfinished, make_folder, remove, write_bytes
from serving.store.parts import ARRAY, Part, read_manifest
from serving.store.sealed import Corrupt, write_sealed
from serving.store.witness import Witness

BLOCK_ROWS = 4096  # that become durable together: what a kill can take is their embedding
METRIC = "inner product of unit vectors"
VECTORS, KEYS = "vectors", "keys"  # the two tables: a row each for every text

Keys = NDArray[np.uint64]  # (texts, 4): the sha256 of each


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What vectors depend on beside their texts."""

    embedder: str  # the sha256 of its folder's files
    max_seq_length: int | None


class VectorStore:
    """Vectors for the texts of these keys, in their order. What is there already counts where it is of the first of
    them and made by the same embedder; otherwise it is taken away.

    A block counts once the manifest lists it, which is written anew after each.
    """

    def __init__(self, manifest: Path, keys: Keys, made_by: MadeBy) -> None:
        self._manifest, self._keys = manifest, keys
        self._facts: dict[str, Any] = {**asdict(made_by), "metric": METRIC}
        self._waiting: list[Vectors] = []
        self._parts = self._usable_parts()
        make_folder(manifest.parent)
        drop_unfinished(manifest.parent)
        if not self._parts:
            remove(manifest)
            for file in manifest.parent.glob(f"*{ARRAY}"):
                remove(file)

    @property
    def rows(self) -> int:
        """How many of the texts have their vector in the run folder."""
        return _rows(self._parts, VECTORS)

    def append(self, vectors: Vectors) -> None:
        """Of the texts that come next; durable with the block that they fill, or with `flush`."""
        self._waiting.append(vectors)
        if sum(map(len, self._waiting)) >= BLOCK_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        vectors = np.concatenate(self._waiting)
        keys = self._keys[self.rows : self.rows + len(vectors)]
        self._waiting = []
        block = len(self._parts) // 2
        self._parts += [self._written(VECTORS, block, vectors), self._written(KEYS, block, keys)]
        figures = {**self._facts, "rows": self.rows, "dim": vectors.shape[1]}
        write_sealed(self._manifest, {"parts": [part.to_facts() for part in self._parts], "figures": figures})

    def open(self) -> "KeptVectors":
        """All of them, once every text has its own."""
        self.flush()
        assert self.rows == len(self._keys), f"{self.rows} of {len(self._keys)} texts are embedded"
        return KeptVectors([self._manifest.parent / part.name for part in self._parts if part.table == VECTORS])

    def _usable_parts(self) -> list[Part]:
        manifest = read_manifest(self._manifest)
        if manifest is None or any(manifest.figures.get(name) != value for name, value in self._facts.items()):
            return []
        if (rows := manifest.rows(KEYS)) != manifest.rows(VECTORS):
            raise Corrupt(f"{self._manifest}: {manifest.rows(VECTORS)} vectors of {rows} texts")
        start = 0
        for file in manifest.files(KEYS):
            keys = np.load(file)
            if not np.array_equal(keys, self._keys[start : (start := start + len(keys))]):
                return []
        return manifest.parts

    def _written(self, table: str, block: int, rows: NDArray[Any]) -> Part:
        name = f"{table}-{block:05}{ARRAY}"
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        write_bytes(self._manifest.parent / name, buffer.getvalue())
        return Part(name, table, len(rows), Witness.of(buffer.getbuffer()))


class KeptVectors:
    """Vectors on disk, of which memory holds what was asked for last; the rest is the kernel's to keep or to drop."""

    def __init__(self, files: list[Path]) -> None:
        mapped = [np.load(file, mmap_mode="r") for file in files]
        self._pages: list[mmap.mmap] = [block.base for block in mapped]
        self._blocks = [np.asarray(block) for block in mapped]  # a memmap is slow to be asked for a few rows
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self._starts[-1]), self._blocks[0].shape[1])

    def __getitem__(self, places: Places, /) -> Vectors:
        if (places[1:] < places[:-1]).any():
            order = np.argsort(places)
            vectors = np.empty((len(places), self.shape[1]), np.float32)
            vectors[order] = self[places[order]]
            return vectors
        ends = np.searchsorted(places, self._starts)
        found = [np.empty((0, self.shape[1]), np.float32)]
        for block in np.flatnonzero(ends[1:] > ends[:-1]):
            found.append(self._blocks[block][places[ends[block] : ends[block + 1]] - self._starts[block]])
            self._pages[block].madvise(mmap.MADV_DONTNEED)  # else all of the file would come to count as our memory
        return np.concatenate(found)


def _rows(parts: list[Part], table: str) -> int:
    return sum(part.rows for part in parts if part.table == table)
