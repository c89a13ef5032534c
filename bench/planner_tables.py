"""Write the planner's packaged tables of measured kernels from the reference data.

    python bench/planner_tables.py [../shared/data]

Kept are the median and the 90th percentile over shapes of a matrix kernel's share of the roofline, by rows M; what a
decode-attention call costs (a floor, and a share of bandwidth above it); and all-reduce times by message. The source
of all three is AIConfigurator's operator data (Apache-2.0); the reference files name versions.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

HERE = Path("optimizer/planner")
HEAD = """# Written by bench/planner_tables.py. vLLM's kernels as AIConfigurator measured them
# (ai-dynamo/aiconfigurator, Apache-2.0).
"""
ROWS = [2**power for power in range(15)]  # 1 … 16384
CALLS = [("<1MB", 2**19), ("1-4", 2**21), ("4-16", 2**23), ("16-64", 2**25), ("64-256", 2**27), ("256-1024", 2**29)]
SMALL_CALL = 2**24
CALLS += [(">1024MB", 2**31)]
BANDWIDTH = {"a100_sxm": 2039e9, "h100_sxm": 3350e9, "h200_sxm": 4800e9, "b200_sxm": 7700e9, "l40s": 864e9}
BANDWIDTH |= {"rtx_pro_6000_server": 1792e9}  # the datasheet's, by which the source states shares
MESSAGES = [2**power for power in range(8, 31, 2)]  # bytes, 256 … 2^30


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the planner's packaged tables of measured kernels.")
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    data = parser.parse_args().data
    efficiency = gemm(rows_of(data / "gemm_efficiency_vllm.csv"))
    efficiency += attention(rows_of(data / "decode_attention_efficiency_vllm.csv"))
    (HERE / "efficiency.toml").write_text(HEAD + efficiency, encoding="utf-8")
    (HERE / "all_reduce.toml").write_text(HEAD + all_reduce(rows_of(data / "allreduce_measured.csv")), encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gemm(rows: Iterable[dict[str, str]]) -> str:
    """Share of the roofline by M; where two kernels measured one M the better counts, gaps take the nearest M."""
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = defaultdict(dict)
    for row in rows:
        here = found[row["system"], row["gemm_dtype"]]
        share = float(row["median_roofline_efficiency"]), float(row["p90_roofline_eff"])
        m_tokens = int(row["m_tokens"])
        here[m_tokens] = max(here.get(m_tokens, share), share)
    lines = [f"\nrows = {ROWS} # M of a product: tokens in the step"]
    for (system, dtype), by_rows in sorted(found.items()):
        nearest = [by_rows[min(by_rows, key=lambda known: abs(known - wanted))] for wanted in ROWS]
        lines += [
            f"\n[gemm.{system}.{dtype}]",
            f"median = {[pair[0] for pair in nearest]}",
            f"p90 = {[pair[1] for pair in nearest]}",
        ]
    return "\n".join(lines) + "\n"


def attention(rows: Iterable[dict[str, str]]) -> str:
    """Times of a layer's call by the bytes that it reads, from the middle between median and best tenth of each bin.

    A share above that of the largest calls came out of the L2 cache, where no model's whole cache is.
    """
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        found[row["system"], row["kv_dtype"]][row["kv_bytes_per_layer_call_bin"]] = row
    lines = [f"\n[decode_attention]\nbytes = {[size for _, size in CALLS]}"]
    for (system, dtype), bins in sorted(found.items()):
        most = float(bins[">1024MB"]["p90_bw_util"])
        times = []
        for name, size in CALLS:
            one = bins[name]
            share = min(most, (float(one["median_bw_util"]) * float(one["p90_bw_util"])) ** 0.5)
            ideal = 1e6 * size / (BANDWIDTH[system] * share)
            least = 1000 * float(one["min_latency_ms"])
            # Small calls wait for launch and tail, and are twice the least at most: few sequences of many were counted.
            times.append(min(ideal, 2 * least) if size < SMALL_CALL else ideal)
        times = [round(min(times[place:]), 1) for place in range(len(times))]
        lines += [f"\n[decode_attention.{system}.{dtype}]", f"us = {times}"]
    return "\n".join(lines) + "\n"


def all_reduce(rows: Iterable[dict[str, str]]) -> str:
    """The faster of NCCL and vLLM's own under CUDA graphs at each size; the source counts 2-byte elements."""
    found: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["dtype"] == "int8" or row["kernel"] == "vLLM_custom_eager":
            continue
        nccl_only = row["system"] in {"l40s", "rtx_pro_6000_server"} and row["num_gpus"] != "2"
        if nccl_only and row["kernel"] != "NCCL":
            continue  # vLLM's own all-reduce is switched off where more than two GPUs meet over PCIe
        size = 2 * int(row["message_size_as_in_source"])
        found[row["system"], int(row["num_gpus"])][size].append(1000 * float(row["latency_ms"]))
    lines = [f"\nbytes = {MESSAGES}"]
    for (system, gpus), by_size in sorted(found.items()):
        known = {size: min(times) for size, times in by_size.items()}
        # A larger message is never faster than a smaller one: where it was measured so, another kernel serves both.
        row_us = [round(min(_at(known, larger) for larger in MESSAGES if larger >= size), 1) for size in MESSAGES]
        lines += [f"\n[{system}.gpus_{gpus}]", f"us = {row_us}"]
    return "\n".join(lines) + "\n"


def _at(known: dict[int, float], size: int) -> float:
    if size in known:
        return known[size]
    if size < min(known):
        return known[min(known)]
    largest = sorted(known)[-2:]
    slope = (known[largest[1]] - known[largest[0]]) / (largest[1] - largest[0])
    return statistics.fmean([known[largest[1]] + slope * (size - largest[1])])


if __name__ == "__main__":
    main()
