"""Write the planner's packaged table of experts' grouped products from AIConfigurator's operator data.

    python bench/expert_tables.py CHECKOUT/aic-core/src/aiconfigurator_core/systems/data

CHECKOUT is one of the repository ai-dynamo/aiconfigurator. Kept is, for each GPU and precision, what experts.py of the
planner computes with: found are the constant time, the time for each expert that is touched and the passes over
activations with which the shares by rows leave the least error, all numbers of rows counting alike. Prints that error.
Taken are rows whose tokens choose all experts alike, since of them it is known how many are touched.
"""

import argparse
import itertools
import json
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.catalogue import gpu
from optimizer.planner.experts import ACTIVATION_BYTES
from optimizer.planner.kernels import GRID
from optimizer.planner.precision import precisions
from optimizer.planner.step import MOST

Numbers = NDArray[np.float64]
TABLE = Path("optimizer/planner/experts.toml")
HEAD = """# Written by bench/expert_tables.py. vLLM's kernels as AIConfigurator measured them
# (ai-dynamo/aiconfigurator, Apache-2.0, commit 095f58a of 2026-08-21). Shares of the roofline are by an expert's rows:
# 1, 2, 4 … 16384.
"""
SYSTEMS = {
    "b200_sxm": "B200-SXM-180GB", "h100_sxm": "H100-SXM-80GB", "h200_sxm": "H200-SXM-141GB", "l40s": "L40S",
    "rtx_pro_6000_server": "RTX-PRO-6000-Blackwell-Server",
}  # fmt: skip
# Release, and what the source calls the kernels' precision. The newest release before 0.20 that was measured, which is
# near what the planner's rows ran; else the newest. INT4 of 0.14, since that of 0.19 is four times as slow as Marlin's
# kernels are. MXFP4 of 0.24, since 0.19's of a B200 are not those that are served with there: activations of 8 bits, as
# InferenceX sets VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8.
USUAL = {dtype: ("0.19.0", dtype) for dtype in ("bfloat16", "fp8", "fp8_block")}
WIDENED = {"int4": ("0.14.0", "int4_wo"), "mxfp4": ("0.24.0", "w4a16_mxfp4")}
KERNELS = {
    "b200_sxm": {**USUAL, "nvfp4": ("0.19.0", "nvfp4"), "mxfp4": ("0.24.0", "w4a8_mxfp4_mxfp8")},
    "h100_sxm": {**USUAL, **WIDENED},
    "h200_sxm": {**USUAL, **WIDENED},
    "l40s": {dtype: ("0.24.0", dtype) for dtype in USUAL} | {"mxfp4": ("0.24.0", "w4a16_mxfp4")},
    "rtx_pro_6000_server": {**USUAL, "nvfp4": ("0.24.0", "nvfp4")},
}
FLOORS_US = np.arange(5.0, 80.0, 5.0)
EACH_US = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2])
PASSES = np.array([0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0])
ROWS = """
SELECT num_tokens, hidden_size, inter_size // moe_tp_size, topk, num_experts, median(latency) / 1000
FROM read_parquet($file)
WHERE moe_dtype = $dtype AND moe_ep_size = 1 AND distribution = 'balanced' AND topk > 1
GROUP BY ALL ORDER BY ALL
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the planner's packaged table of experts' grouped products.")
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    text = HEAD
    for system, kernels in KERNELS.items():
        for dtype, (release, called) in kernels.items():
            file = data / system / "moe" / "vllm" / release / "moe_perf.parquet"
            found = duckdb.execute(ROWS, {"file": str(file), "dtype": called}).fetchnumpy()
            figures, error = fitted(system, dtype, *(np.asarray(found[name], float) for name in found))
            text += f"\n[{system}.{dtype}]\n" + "".join(f"{name} = {json.dumps(of)}\n" for name, of in figures.items())
            print(f"{system:20} {dtype:10} {len(found['topk']):5} rows  off by {error:.1%} in the mean")
    TABLE.write_text(text, encoding="utf-8")


def fitted(
    system: str, dtype: str, tokens: Numbers, hidden: Numbers, width: Numbers, chosen: Numbers, experts: Numbers,
    seconds: Numbers,
) -> tuple[dict[str, object], float]:  # fmt: skip
    card = gpu(SYSTEMS[system])
    scheme = precisions(dtype, card).experts
    bandwidth = card.memory_gb_s * 1e9
    touched = np.minimum(experts, tokens * chosen)
    weights = 3.0 * hidden * width
    by_bytes = touched * weights * scheme.weight_bytes / bandwidth
    roofline = np.maximum(by_bytes, 2.0 * weights * tokens * chosen / scheme.flops)
    moved = tokens * chosen * hidden * ACTIVATION_BYTES / bandwidth
    place = np.clip(np.round(np.log2(tokens * chosen / touched)), 0, GRID - 1).astype(int)
    places = np.unique(place)
    nearest = [int(np.argmin(np.abs(places - one))) for one in range(GRID)]  # of those, to each place of the grid
    best: tuple[float, tuple[float, float, float], Numbers] | None = None
    for floor_us, each_us, passes in itertools.product(FLOORS_US, EACH_US, PASSES):
        besides = floor_us * 1e-6 + each_us * 1e-6 * touched + passes * moved
        left = np.maximum(seconds - besides, 0.02 * seconds)
        shares = np.array([min(MOST, float(np.median((roofline / left)[place == one]))) for one in places])
        on_grid = shares[nearest]
        off = np.abs(np.log((besides + roofline / on_grid[place]) / seconds))
        error = float(np.mean([off[place == one].mean() for one in places]))
        if best is None or error < best[0]:
            best = error, (float(floor_us), float(each_us), float(passes)), on_grid
    if best is None:
        raise SystemExit(f"no rows of {system}, {dtype}")
    error, (floor_us, each_us, passes), shares = best
    return {"floor_us": floor_us, "each_us": each_us, "passes": passes, "share": shares.round(4).tolist()}, error


if __name__ == "__main__":
    main()
