"""A run's lanes under the roofline of the machine that they ran on, if that is this one and its ceilings are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.catalogue.catalogue import Catalogue
from optimizer.catalogue.names import UnknownName
from optimizer.planner.own_roofline import LaneRan, Spot, spots
from optimizer.planner.precision import UnknownPrecision, precisions
from serving.engines.ceilings import Ceilings, kept
from serving.engines.machine import Machine, this_machine
from serving.models.folder import BadModelFolder, ModelFolder
from serving.models.shape import shape_of

# Bytes of a weight with its scales, by how a folder's precision begins; others are as wide as what is computed in.
WEIGHT_BYTES = {"w8": 1.0, "fp8": 1.0, "int8": 1.0, "w4": 0.53, "awq": 0.53, "gptq": 0.53}
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# By lane: what its mean row used, what a token took, and how many sequences ran at once, the mean over its time.
RAN = """
WITH load AS (
    SELECT lane, sum(running * seconds) / sum(seconds) AS running FROM segments
    WHERE run_id = $run AND running IS NOT NULL AND seconds > 0 GROUP BY lane
)
SELECT lane, model, prompt_tokens / rows_run AS prompt_tokens, completion_tokens / rows_run AS output_tokens,
       prefill_s_per_token, decode_s_per_token, running
FROM lanes JOIN lane_rates USING (run_id, lane) JOIN load USING (lane)
WHERE run_id = $run AND rows_run > 0 ORDER BY lane
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
    machine = this_machine()
    ceilings = _of_gpu(machine, facts) if machine.has_gpu else kept(machine, dtype)
    step_tokens = facts["job"]["engine"]["max_num_batched_tokens"]
    found = [
        spot
        for lane in lanes
        if (ran := _ran(lane, NUMBER_BYTES[dtype], step_tokens)) is not None
        for spot in spots(ran)
    ]
    return Roofline(ceilings, tuple(found)) if ceilings and found else None


def _ran(lane: dict[str, Any], number_bytes: int, step_tokens: int) -> LaneRan | None:
    """None where the model is not there any more."""
    try:
        model = ModelFolder.open(Path(lane["model"]))
        shape = shape_of(model)
    except BadModelFolder:
        return None
    width = next((size for name, size in WEIGHT_BYTES.items() if model.precision.startswith(name)), float(number_bytes))
    return LaneRan(
        lane["lane"], shape, width, number_bytes, lane["prefill_s_per_token"], lane["decode_s_per_token"],
        lane["running"], lane["prompt_tokens"], lane["output_tokens"], step_tokens,
    )  # fmt: skip


def _of_gpu(machine: Machine, facts: dict[str, Any]) -> Ceilings | None:
    """Of all that run the full model together, for its weights; by the data sheet."""
    try:
        gpu = Catalogue().gpu(machine.gpus[0].name)
        weights = ModelFolder.open(Path(facts["job"]["model"]["full"])).precision
        flop_s = precisions("bf16" if weights in ("bf16", "fp16", "fp32") else weights, gpu).linear.flops
    except (UnknownName, UnknownPrecision, BadModelFolder):
        return None
    engine = facts["job"]["engine"]
    ranks = engine["tensor_parallel"] * engine["pipeline_parallel"]
    return Ceilings(ranks * flop_s, ranks * gpu.memory_gb_s * 1e9, f"{ranks} x {gpu.name}, data sheet")
