"""What measurements near a plan say of its speed, beyond the constants that it shares with many others.

Constants leave something of every measurement untold, and what they leave is alike where plans are alike: for the same
model at a like batch, say. A Gaussian process of mean zero carries it from plan to plan (kriging: Rasmussen & Williams
2006, section 2.2; of what a model leaves: Kennedy & O'Hagan 2001, doi 10.1111/1467-9868.00294). Far from all that was
measured it says nothing, and the constants stand alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.weights import weights_of
from serving.engine_config import ModelShape

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
Kin = tuple[str, ...]  # what a plan has in common with others: its groups of constants, and those of `kin_of`

# Chosen on development rows, a cell of GPU and model left out at a time, out of a score of sets. They are not delicate:
# with each of those the rows that were left out were told better than by the constants alone.
SPREAD = 0.08  # standard deviation of what constants leave, a logarithm
NOISE = 0.06  # of a row's logarithm: what versions and machines differ by besides (planner.md: 0.3 to 7.5 %)
FAR = 0.25  # rows that are this far off count half: something else is wrong with them
OCTAVES = (1.5, 1.5, 1.5, 1.5, 1.0)  # of each number of a point, over which plans stay alike
ALIKE: Mapping[str, float] = {  # share that stays where plans differ in this
    "engine": 0.3, "version": 0.6, "release": 0.8, "load": 0.8, "architecture": 0.7, "gpu": 0.7, "weights": 0.6,
    "mixture": 0.6, "kv": 0.8, "attention": 0.8, "experts": 0.5, "shape": 0.6,
}  # fmt: skip
AT_ONCE = 1024  # points that are asked together: a few MB for each thousand that are known


@dataclass(frozen=True, slots=True)
class Points:
    """Plans under a load: whom they are akin to, and in octaves how far apart they are.

    `octaves` are log2 of sequences at once, of input and output tokens, of weights that a token meets, and of ranks.
    """

    kin: tuple[Kin, ...]  # distinct
    of: Places  # (points,): places in `kin`
    octaves: Numbers  # (points, 5)

    def __len__(self) -> int:
        return len(self.of)

    def at(self, places: slice | Places) -> "Points":
        return Points(self.kin, self.of[places], self.octaves[places])

    def distinct(self) -> tuple["Points", Places]:
        """Each once, and where each of these is among them."""
        keys = np.column_stack([self.of, self.octaves.round(4)])
        _, first, back = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return self.at(first), back.reshape(-1)


def kin_of(groups: Kin, shape: ModelShape) -> Kin:
    widths = f"{shape.hidden}, {shape.heads}/{shape.kv_heads}, {shape.intermediate or shape.expert_intermediate}"
    kind = "some" if shape.experts else "none"
    return (*groups, f"experts:{kind}", f"shape:{shape.architecture} {shape.layers} * ({widths})")


def points_of(
    kin: Sequence[Kin],
    shapes: Sequence[ModelShape],
    ranks: Sequence[float],
    sequences: Numbers,
    input_tokens: Numbers,
    output_tokens: Numbers,
) -> Points:
    """One for each plan, by place."""
    distinct = {one: place for place, one in enumerate(dict.fromkeys(kin))}
    met = [_weights_met(shape) for shape in shapes]
    figures = np.stack([sequences, input_tokens, output_tokens, met, ranks], axis=1)
    octaves = np.log2(np.maximum(figures, 1.0))
    return Points(tuple(distinct), np.array([distinct[one] for one in kin], np.int64), octaves)


@cache
def _weights_met(shape: ModelShape) -> float:
    weights = weights_of(shape)
    chosen = shape.experts_per_token / shape.experts if shape.experts else 0.0
    return float(weights.linear + weights.experts * chosen + weights.head)


@dataclass(frozen=True, slots=True)
class Nearby:
    """Measured points, and how each pulls what is near it."""

    points: Points
    pull: Numbers

    @classmethod
    def learned(cls, points: Points, slower: Numbers) -> Self:
        """From logarithms of measured over predicted times. Points that are the same count as one."""
        certainty = 1 / (NOISE**2 * (1 + (slower / FAR) ** 2))
        own, back = points.distinct()
        sure = np.bincount(back, certainty)
        mean = np.bincount(back, certainty * slower) / sure
        pull = np.asarray(np.linalg.solve(covariance(own, own) + np.diag(1 / sure), mean), dtype=np.float64)
        return cls(own, pull)

    def slower(self, asked: Points) -> Numbers:
        """Logarithms of factors by which these plans are slower than their constants say."""
        own, back = asked.distinct()
        found = np.zeros(len(own))
        for start in range(0, len(own), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found[part] = covariance(own.at(part), self.points) @ self.pull
        return found[back]

    def text(self, source: str) -> str:
        """As JSON, a line for each kin."""
        rows = sorted(zip(self.points.of.tolist(), self.points.octaves.tolist(), self.pull.tolist(), strict=True))
        blocks = [
            json.dumps([self.points.kin[place], [[*(round(x, 3) for x in at), round(pull, 3)] for _, at, pull in some]])
            for place, some in groupby(rows, key=lambda row: row[0])
        ]
        return f'{{"source": {json.dumps(source)},\n"known": [\n' + ",\n".join(blocks) + "\n]}\n"


def covariance(some: Points, others: Points) -> Numbers:
    """(some, others), of what constants leave of them."""
    shared = np.ones((len(some.kin), len(others.kin)))
    for kind, share in ALIKE.items():
        shared *= np.where(_named(some.kin, kind)[:, None] == _named(others.kin, kind), 1.0, share)
    apart = np.zeros((len(some), len(others)))
    for number, octaves in enumerate(OCTAVES):
        apart += ((some.octaves[:, number, None] - others.octaves[:, number]) / octaves) ** 2
    return np.asarray(SPREAD**2 * shared[some.of[:, None], others.of] * np.exp(-apart / 2))


def _named(kin: Sequence[Kin], kind: str) -> NDArray[np.str_]:
    return np.array([next((group for group in one if group.startswith(f"{kind}:")), "") for one in kin])


@cache
def shipped() -> Nearby:
    """What the development rows say."""
    known: Any = json.loads(files("optimizer.planner").joinpath("nearby.json").read_text(encoding="utf-8"))["known"]
    table = np.array([at for _, rows in known for at in rows])
    of = np.repeat(np.arange(len(known)), [len(rows) for _, rows in known])
    return Nearby(Points(tuple(tuple(kin) for kin, _ in known), of, table[:, :-1]), table[:, -1])
