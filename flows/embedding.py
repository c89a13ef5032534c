"""Prompts into vectors that the run folder keeps: each text once, and after a kill only those that were not kept."""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.limits import Stopped
from flows.open import Work
from flows.paying import DoesNotPay
from optimizer.collapse import Keys, Rows, exact_representatives
from serving.store.parts import read_manifest

if TYPE_CHECKING:
    from serving.reuse.embed import Embedder
    from serving.reuse.vectors import KeptVectors

EMBED_ROWS = 256  # between two looks at whether the run is to stop


@dataclass(frozen=True, slots=True, eq=False)
class Comparable:
    """Rows that may have near-duplicates, place by place; equal texts have one vector."""

    rows: Rows
    frames: NDArray[np.int64]  # a number for each frame
    vectors: NDArray[np.int64]  # which vector a row has
    keys: Keys  # the sha256 of each vector's text
    spelt: Rows  # for each vector a row that has its text

    def __len__(self) -> int:
        return len(self.rows)


def candidates(work: Work, rows: Rows, embedder: "Embedder") -> Comparable:
    """Those of `rows` whose whole text the embedder sees: others may embed alike and differ at their ends."""
    seen, frames = array("q"), array("q")
    number_of: dict[str, int] = {}
    digests = bytearray()
    for row, frame, text in requests_of(work, rows, ["row", "frame", "text"]):
        if not embedder.truncates(text):
            seen.append(row)
            frames.append(number_of.setdefault(frame, len(number_of)))
            digests += sha256(text.encode()).digest()
    keys = np.frombuffer(digests, np.uint64).reshape(-1, 4)
    places = np.arange(len(seen))
    first = exact_representatives(places, keys, np.ones(len(seen), np.bool_))
    distinct = np.flatnonzero(first == places)
    found = np.array(seen)
    vectors = np.searchsorted(distinct, first)
    return Comparable(found, np.array(frames), vectors, keys[distinct], found[distinct])


def embedded(work: Work, found: Comparable, embedder: "Embedder", heed: Callable[[int, int], None]) -> "KeptVectors":
    """The vectors of all candidates. Raises Stopped, or what `heed` raises, which is told after each block how many
    were embedded by now and how many are left; what was embedded until then is kept."""
    from serving.reuse.vectors import MadeBy, VectorStore

    made_by = MadeBy(work.facts["fingerprint"]["models"]["embedder"], embedder.max_seq_length)
    store = VectorStore(work.run.embedded, found.keys, made_by)
    left, done = len(found.spelt) - store.rows, 0
    texts = (text for _, text in requests_of(work, found.spelt[store.rows :], ["row", "text"]))
    try:
        while block := list(islice(texts, EMBED_ROWS)):
            heed_limits(work)
            work.writer.check()  # whoever took the run over writes these files now
            store.append(embedder.embed(block))
            done, left = done + len(block), left - len(block)
            heed(done, left)
    except (Stopped, DoesNotPay):
        store.flush()
        raise
    return store.open()


def kept_vectors(work: Work) -> int:
    """How many are in the run folder so far."""
    manifest = read_manifest(work.run.embedded)
    return 0 if manifest is None else int(manifest.figures["rows"])


def requests_of(work: Work, rows: Rows, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """These columns, `row` first, of those admitted requests, in their order."""
    for part in work.run.stage(work.run.admitted).tables("requests", columns):
        heed_limits(work)
        wanted = part.filter(pa.array(np.isin(part["row"], rows)))
        yield from zip(*(wanted[name].to_pylist() for name in columns), strict=True)


def heed_limits(work: Work) -> None:
    """Between blocks the run shows that it is alive, and can be stopped."""
    if work.asked_to_stop():
        raise Stopped
