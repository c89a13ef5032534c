"""How long it takes to find the near pairs of N vectors on disk and to cover them, and how much memory.

    python bench/join.py 100000 [--dim 384] [--near 0.1]

The vectors are drawn: points around 1,000 centres at cosines of some 0.5, of which a share was put near an earlier
one, at a cosine of some 0.95. They are kept as a run keeps them; no encoder is loaded, so the peak is without one.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from optimizer.collapse import copies_of, judge_pairs, star_cover
from serving.reuse.embed import Vectors
from serving.reuse.neighbours import FLAT_ROWS, NearPairs, near_pairs
from serving.reuse.vectors import BLOCK_ROWS, MadeBy, VectorStore

MIN_SIMILARITY = 0.9
CENTRES, NOISE, NEAR_NOISE = 1_000, 1.0, 0.33  # noise beside a vector of length 1
LIMIT_MIB = 2048  # what the stage may take beside the encoder
Done = TypeVar("Done")


def main() -> int:
    parser = argparse.ArgumentParser(description="Near pairs and their cover: seconds and memory.")
    parser.add_argument("rows", type=int, nargs="?", default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--near", type=float, default=0.1, help="share of the rows that are put near an earlier one")
    options = parser.parse_args()
    how = "all with all" if options.rows <= FLAT_ROWS else "by lists"
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; {options.rows} x {options.dim}, {how}")
    print(f"{'':10}{'seconds':>10} {'peak MiB':>10}")
    with tempfile.TemporaryDirectory(prefix="join-") as folder:
        store = timed("keep", lambda: kept(Path(folder), options.rows, options.dim, options.near))
        near = timed("join", lambda: joined(store, options.rows))
        served = timed("cover", lambda: covered(near, options.rows))
    print(f"{len(near.left)} pairs, {served} rows answered by another")
    if near.recall.asked:
        share = near.recall.found / near.recall.asked
        print(f"recall@1 {share:.2%} of {near.recall.asked} rows, {near.recall.lists} lists looked at for a row")
    verdict = "within" if peak_mib() <= LIMIT_MIB else "ABOVE"
    print(f"peak {peak_mib():.0f} MiB, {verdict} {LIMIT_MIB} MiB")
    return 0 if peak_mib() <= LIMIT_MIB else 1


def timed(what: str, work: Callable[[], Done]) -> Done:
    began = time.monotonic()
    done = work()
    print(f"{what:10}{time.monotonic() - began:>10.2f} {peak_mib():>10.0f}", flush=True)
    return done


def peak_mib() -> float:
    """Of this process so far, with the pages of files that it has mapped."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def kept(folder: Path, rows: int, dim: int, near: float) -> VectorStore:
    generator = np.random.default_rng(rows)
    centres = unit(generator.standard_normal((CENTRES, dim), np.float32))
    keys = np.arange(rows * 4, dtype=np.uint64).reshape(rows, 4)
    store = VectorStore(folder / "embed.json", keys, MadeBy("drawn", None))
    for start in range(0, rows, BLOCK_ROWS):
        store.append(drawn(generator, centres, min(BLOCK_ROWS, rows - start), near))
    store.flush()
    return store


def drawn(generator: np.random.Generator, centres: Vectors, rows: int, near: float) -> Vectors:
    dim = centres.shape[1]

    def noise(length: float) -> Vectors:
        return unit(generator.standard_normal((rows, dim), np.float32)) * np.float32(length)

    points = unit(centres[generator.integers(0, CENTRES, rows)] + noise(NOISE))
    sources = generator.integers(0, rows, rows)
    copied = (generator.random(rows) < near)[:, None]
    return unit(np.where(copied, points[sources] + noise(NEAR_NOISE), points))


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def joined(store: VectorStore, rows: int) -> NearPairs:
    return near_pairs(store.open(), np.arange(rows), np.zeros(rows, np.int64), MIN_SIMILARITY)


def covered(near: NearPairs, rows: int) -> int:
    """As a run covers pairs that no veto holds: the texts are one and the same."""
    triples = zip(near.left.tolist(), near.right.tolist(), near.similarity.tolist(), strict=True)
    pairs = judge_pairs(triples, dict.fromkeys(range(rows), "same"))
    return len(star_cover(pairs, copies_of(pairs, np.arange(rows))))


if __name__ == "__main__":
    sys.exit(main())
