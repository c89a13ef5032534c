"""A handful of constants for each engine version, GPU and precision, drawn from measurements towards priors.

The logarithm of a constant is a prior plus one deviation for each thing that a plan has: its engine, the engine's
version, the GPU's architecture, the GPU, the precision. Deviations have zero-mean normal priors, so that 0, 6 or 60
rows all work, and what was never seen is predicted by what it shares with the rest (Gelman & Hill 2006, partial
pooling). Fitted are logarithms of measured over predicted, robustly (Student's t, by reweighting), by Gauss-Newton.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from optimizer.planner import nearby
from optimizer.planner.nearby import NOISE, Nearby, Points
from optimizer.planner.step import Constants

Numbers = NDArray[np.float64]
NAMES = tuple(field.name for field in fields(Constants))
Groups = tuple[str, ...]  # of a plan: "engine:vllm", "version:vllm-1", "architecture:Hopper", "gpu:…", "weights:fp8", …
Predict = Callable[[Numbers], Numbers]  # (rows, constants) of logarithms to the logarithm of each row's prediction

_OVERHEADS = {"layer_us": 0.5, "routing": 0.6, "sequence_us": 0.6, "step_ms": 0.6, "request_ms": 0.6}
# How far the logarithm of a constant may stand from what it has in common with others: by kind of group.
SPREADS: Mapping[str, Mapping[str, float]] = {
    "engine": dict.fromkeys(NAMES, 0.2)
    | {"expert_read": 0.3, "expert_compute": 0.3, "bubble": 1.0, "evenness": 0.3}
    | _OVERHEADS,
    "version": dict.fromkeys(NAMES, 0.12) | {"evenness": 0.0} | _OVERHEADS,
    "release": dict.fromkeys(NAMES, 0.05) | dict.fromkeys(_OVERHEADS, 0.2) | {"evenness": 0.0},
    "load": dict.fromkeys(NAMES, 0.0) | {"sequence_us": 0.5, "step_ms": 0.4},
    "architecture": dict.fromkeys(NAMES, 0.1) | {"bubble": 0.0, "evenness": 0.0},
    "gpu": dict.fromkeys(NAMES, 0.06) | {"bubble": 0.0, "evenness": 0.0},
    "weights": dict.fromkeys(NAMES, 0.0) | {"weight_read": 0.12, "compute": 0.15, "layer_us": 0.2},
    "mixture": dict.fromkeys(NAMES, 0.0)  # weights of a model with experts
    | {
        "weight_read": 0.12,
        "compute": 0.15,
        "layer_us": 0.5,
        "expert_read": 0.1,
        "expert_compute": 0.15,
        "routing": 0.6,
    },
    "kv": dict.fromkeys(NAMES, 0.0) | {"kv_read": 0.15, "prefill_attention": 0.1},
    "attention": dict.fromkeys(NAMES, 0.0) | {"kv_read": 0.8},  # kernels that read a KV head for each query head
}
FREEDOM = 4.0  # of Student's t
ROUNDS = 25  # at most
ENOUGH = 5e-4  # of the loss: a round that gains less is the last


@dataclass(frozen=True, slots=True)
class Calibration:
    """Deviations by group and constant, logarithms; and what measurements near a plan say besides."""

    deviations: Mapping[str, Mapping[str, float]]
    nearby: Nearby | None = None

    def logs(self, groups: Sequence[Groups]) -> Numbers:
        """(plans, constants)"""
        base = np.log([getattr(Constants(), name) for name in NAMES])
        of_group = {
            group: np.array(
                [self.deviations.get(group, {}).get(name, 0.0) + PRIORS.get(group, {}).get(name, 0.0) for name in NAMES]
            )
            for group in {*self.deviations, *PRIORS}
        }
        none = np.zeros(len(NAMES))
        places: dict[Groups, int] = {}
        of_plan = [places.setdefault(each, len(places)) for each in groups]
        return np.stack([base + sum((of_group.get(one, none) for one in each), none) for each in places])[of_plan]

    def slower(self, points: Points) -> Numbers:
        """Logarithms of factors by which plans take longer than their constants say."""
        return np.zeros(len(points)) if self.nearby is None else self.nearby.slower(points)

    def constants_of(self, groups: Groups) -> Constants:
        """Of one plan, plain numbers."""
        return Constants(*(float(value) for value in np.exp(self.logs([groups])[0])))


NONE = Calibration({})
# Engine V0 of vLLM prepared each step in Python while the GPU waited, V1 runs ahead (vLLM's own account of V1).
# Its kernel for a cache of 8 bits read a KV head for each query head, and turned numbers by software before Ada.
PRIORS: Mapping[str, Mapping[str, float]] = {
    "version:vllm-v0": {"sequence_us": math.log(6), "step_ms": math.log(4)},
    "weights:vllm int8": {"weight_read": math.log(1.15)},  # as 16-bit and FP8 products came out; none of INT8 is known
    "attention:vllm-v0 fp8 converted": {"kv_read": math.log(2)},
    "attention:vllm-v0 fp8 emulated": {"kv_read": math.log(10)},
}


def constants_of(logs: Numbers) -> Constants:
    """(plans, constants) of logarithms as Constants of arrays."""
    return Constants(**dict(zip(NAMES, np.exp(logs).T, strict=True)))


def fit(predict: Predict, measured: Numbers, groups: Sequence[Groups], weights: Numbers) -> Calibration:
    """The likeliest deviations given these rows, sought from the priors. `weights` scale how much a row counts."""
    labels = [group for group in sorted({one for each in groups for one in each}) if _kind(group) in SPREADS]
    spread = np.array([[SPREADS[_kind(label)][name] for name in NAMES] for label in labels])
    free = np.argwhere(spread > 0)  # (unknowns, 2): group, constant
    member = np.array([[label in each for label in labels] for each in groups], dtype=np.float64)
    precision = 1 / spread[free[:, 0], free[:, 1]] ** 2
    now = np.zeros(len(free))
    base = NONE.logs(groups)
    target = np.log(measured)

    def logs(unknowns: Numbers) -> Numbers:
        table = np.zeros(spread.shape)
        table[free[:, 0], free[:, 1]] = unknowns
        return np.asarray(base + member @ table)

    def loss(left: Numbers, unknowns: Numbers) -> float:
        rows = weights * (FREEDOM + 1) * np.log1p((left / NOISE) ** 2 / FREEDOM)
        return float(rows.sum() + (precision * unknowns**2).sum())

    here = logs(now)
    left = target - predict(here)
    best = loss(left, now)
    for _ in range(ROUNDS):
        slope = _slopes(predict, here, target - left)  # (rows, constants)
        jacobian = member[:, free[:, 0]] * slope[:, free[:, 1]]
        weight = weights * (FREEDOM + 1) / (FREEDOM + (left / NOISE) ** 2) / NOISE**2
        normal = (jacobian * weight[:, None]).T @ jacobian + np.diag(precision)
        step = np.linalg.solve(normal, jacobian.T @ (weight * left) - precision * now)
        for shrink in (1.0, 0.5, 0.2, 0.05):
            tried = now + shrink * step
            tried_left = target - predict(logs(tried))
            if (found := loss(tried_left, tried)) < best:
                break
        else:
            break
        gained, best, now, left, here = best - found, found, tried, tried_left, logs(tried)
        if gained < ENOUGH * abs(best):
            break
    deviations: dict[str, dict[str, float]] = {}
    for (group, constant), value in zip(free, now, strict=True):
        if abs(value) > 5e-4:
            deviations.setdefault(labels[group], {})[NAMES[constant]] = float(value)
    return Calibration(deviations)


def _slopes(predict: Predict, logs: Numbers, now: Numbers, width: float = 0.01) -> Numbers:
    """(rows, constants), by differences; `now` is what these logarithms give."""
    shifts = np.eye(logs.shape[1]) * width
    return np.stack([(predict(logs + shift) - now) / width for shift in shifts], axis=1)


def _kind(group: str) -> str:
    return group.partition(":")[0]


@cache
def shipped() -> Calibration:
    """What was fitted to the development rows."""
    text = files("optimizer.planner").joinpath("constants.toml").read_text(encoding="utf-8")
    return Calibration(tomllib.loads(text).get("deviation", {}), nearby.shipped())
