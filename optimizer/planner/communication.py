"""What ranks of one node spend on adding up their partial sums: measured all-reduce times, carried to other links."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu

Numbers = NDArray[np.float64]
MEASURED_LINK_GB_S = {"a100_sxm": 300, "h100_sxm": 450, "h200_sxm": 450, "b200_sxm": 900}
MEASURED_LINK_GB_S |= {"l40s": 32, "rtx_pro_6000_server": 64}
FIRST, STEP = 8, 2  # the grid of message sizes: 2**8, 2**10 … 2**30 bytes


def all_reduce_us(gpu: Gpu, ranks: int) -> Numbers:
    """Times on the grid of sizes, microseconds; zeros for one rank.

    A link that was not measured takes the table of the nearest one, read at the size that it would move in that time.
    """
    if ranks < 2:
        return np.zeros(12)
    known = 2 if ranks < 3 else 4 if ranks < 6 else 8
    system = _measured_like(gpu, known)
    table = np.asarray(_tables()[system][f"gpus_{known}"]["us"])
    slower = MEASURED_LINK_GB_S[system] / max(gpu.link_gb_s, 1.0)
    if 0.8 < slower < 1.25:
        return table
    sizes = FIRST + STEP * np.arange(12.0) + np.log2(slower)
    last = float(FIRST + STEP * 11)
    inside = np.exp(np.interp(sizes, sizes - np.log2(slower), np.log(table)))
    return np.asarray(inside * 2.0 ** np.maximum(0.0, sizes - last))


def _measured_like(gpu: Gpu, ranks: int) -> str:
    if not gpu.nvlink:
        # Four and eight L40S were measured where they meet across sockets, at 5 and 1.5 GB/s; TensorRT-LLM's published
        # rows of eight of them need some 9, which the other PCIe table gives at their link's rate.
        return "l40s" if gpu.link_gb_s < 48 and ranks == 2 else "rtx_pro_6000_server"
    if gpu.link_gb_s > 600:
        return "b200_sxm"
    return "h100_sxm" if gpu.link_gb_s > 350 else "a100_sxm"


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("optimizer.planner").joinpath("all_reduce.toml").read_text(encoding="utf-8"))
