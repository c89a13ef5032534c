"""What vLLM's grouped products over experts were measured to take, on this GPU or on the nearest one.

A layer's t = floor + each * experts touched + passes * activations / W + roofline / share(M), with M the rows of an
expert that is touched. Tokens are sorted by expert and back (floor, passes); an expert's part is read on its own, so
that narrow parts cost more for a byte (each); products of few rows fill tiles partly (share).
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.kernels import measured_like
from optimizer.planner.precision import Scheme

Numbers = NDArray[np.float64]
ACTIVATION_BYTES = 2.0  # of a number, 16 bit
CALLED = {"bf16": "bfloat16", "mxfp4 weights": "mxfp4"}  # in the table; the others as their scheme
UNMEASURED = {"a100_sxm": "h100_sxm"}  # by how it is alike: the same kernels, in Triton


@dataclass(frozen=True, slots=True)
class Grouped:
    """Of one layer's experts."""

    floor_us: float
    each_us: float  # for each expert that is touched
    passes: float  # over the activations of the experts that tokens chose
    shares: Numbers  # of the roofline, by log2 of an expert's rows
    compute_share: float  # of what the measured kernel reaches of the peak
    read_share: float


def grouped(gpu: Gpu, scheme: Scheme) -> Grouped:
    system = measured_like(gpu)
    tables = _tables()[UNMEASURED.get(system, system)]
    name = "fp8_block" if scheme.kernel == "fp8_block" else CALLED.get(scheme.name, scheme.name)
    own = name in tables
    table = tables[name if own else scheme.kernel if scheme.kernel in tables else "bfloat16"]
    return Grouped(
        table["floor_us"],
        table["each_us"],
        table["passes"],
        np.asarray(table["share"], dtype=np.float64),
        1.0 if own else scheme.compute_share,
        1.0 if own else scheme.read_share,
    )


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("optimizer.planner").joinpath("experts.toml").read_text(encoding="utf-8"))
