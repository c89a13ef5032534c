"""A run's lanes under the roofline of the machine that they ran on, if that is this one and its ceilings are known."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flows.open import hardware_of
from optimizer.catalogue.catalogue import shipped
from optimizer.catalogue.names import UnknownName
from optimizer.planner.own_roofline import LaneRan, Spot, spots
from optimizer.planner.precision import UnknownPrecision, precisions
from serving.engines.ceilings import Ceilings, kept
from serving.engines.machine import Machine, this_machine
from serving.models.folder import BadModelFolder, ModelFolder
from serving.models.shape import shape_of
from serving.records import Load

# Bytes of a weight with its scales, by how a folder's precision begins; others are as wide as what is computed in.
WEIGHT_BYTES = {"w8": 1.0, "fp8": 1.0, "int8": 1.0, "w4": 0.53, "awq": 0.53, "gptq": 0.53}
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# By lane: what its mean row used, and what its steps did.
STEPS = tuple(part.name for part in fields(Load) if part.name not in ("running_s", "kv_s"))
RAN = f"""
WITH steps AS (
    SELECT lane, {", ".join(f"sum({name}) AS {name}" for name in STEPS)} FROM segments
    WHERE run_id = $run AND decode_s IS NOT NULL GROUP BY lane
)
SELECT lanes.lane, model, prompt_tokens / rows_run AS prompt_tokens, completion_tokens / rows_run AS output_tokens,
       {", ".join(STEPS)}
FROM lanes JOIN steps USING (lane) WHERE run_id = $run AND rows_run > 0 ORDER BY lanes.lane
"""


@dataclass(frozen=True, slots=True)
class Roofline:
    ceilings: Ceilings
    spots: tuple[Spot, ...]


def roofline_of(facts: dict[str, Any], lanes: Sequence[dict[str, Any]]) -> Roofline | None:
    """`facts` are run.json's, `lanes` what RAN found. None where the engine ran elsewhere, or nothing is known of what
    this machine could do."""
    if not lanes or (dtype := facts["machine"].get("dtype")) is None:
        return None
    machine, engine = this_machine(), facts["job"]["engine"]
    if not hardware_of(machine).items() <= facts["machine"].items():
        return None
    ceilings = _of_gpu(machine, facts) if machine.has_gpu else kept(machine, dtype)
    ran = [one for lane in lanes if (one := _ran(lane, NUMBER_BYTES[dtype], engine["quantize"])) is not None]
    together = 1 if machine.has_gpu else engine["replicas"]  # engines share the cores whose ceilings these are
    found = [spot._replace(flop_s=spot.flop_s * together) for one in ran for spot in spots(one)]
    return Roofline(ceilings, tuple(found)) if ceilings and found else None


def _ran(lane: dict[str, Any], number_bytes: int, quantize: str) -> LaneRan | None:
    """None where the model is not there any more."""
    try:
        model = ModelFolder.open(Path(lane["model"]))
        shape = shape_of(model)
    except BadModelFolder:
        return None
    precision = model.precision if quantize == "none" else quantize
    width = next((size for name, size in WEIGHT_BYTES.items() if precision.startswith(name)), float(number_bytes))
    load = Load(**{name: lane[name] for name in STEPS})
    return LaneRan(lane["lane"], shape, width, number_bytes, load, lane["prompt_tokens"], lane["output_tokens"])


def _of_gpu(machine: Machine, facts: dict[str, Any]) -> Ceilings | None:
    """Of all that run the full model together, for its weights; by the data sheet."""
    engine = facts["job"]["engine"]
    try:
        gpu = shipped().gpu(machine.gpus[0].name)
        weights = ModelFolder.open(Path(facts["job"]["model"]["full"])).precision
        weights = weights if engine["quantize"] == "none" else engine["quantize"]
        flop_s = precisions("bf16" if weights in ("bf16", "fp16", "fp32") else weights, gpu).linear.flops
    except (UnknownName, UnknownPrecision, BadModelFolder):
        return None
    ranks = engine["tensor_parallel"] * engine["pipeline_parallel"]
    return Ceilings(ranks * flop_s, ranks * gpu.memory_gb_s * 1e9, f"{ranks} x {gpu.name}, data sheet")
