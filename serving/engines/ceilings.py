"""What this machine's cores can do at the most: operations a second in a product of matrices, bytes a second read from
memory. Measured with the engine's own threads in a process of its own, and kept beside what engines took."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.engine_config import EngineConfig
from serving.engines.machine import Machine
from serving.engines.measured import FOLDER
from serving.engines.vllm_environment import child_environment
from serving.environment import own_folder

SIZES = (2048, 1024, 8192)  # rows, inner, columns: some 0.2 s on two AVX2 cores, and no cache holds it
# The best of ten products, and of ten walks over a GiB.
MEASURE = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
rows, inner, columns = json.loads(sys.argv[2])
dtype = getattr(torch, sys.argv[3])
a, b, big = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype), torch.ones(2**28)
def best(work):
    work()
    seconds = []
    for _ in range(10):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return min(seconds)
product_s, walk_s = best(lambda: a @ b), best(lambda: big.sum())
print(json.dumps([2 * rows * inner * columns / product_s, big.numel() * 4 / walk_s]))
"""


@dataclass(frozen=True, slots=True)
class Ceilings:
    flop_s: float
    bytes_s: float
    said_by: str  # when it was measured, or whose data sheet it is


def measure(config: EngineConfig, machine: Machine, sizes: tuple[int, int, int] = SIZES) -> Ceilings:
    """Takes some seconds of every core. `config` is settled for the machine.

    Raises:
        OSError, subprocess.SubprocessError: the process could not be run.
    """
    told = [str(len(machine.cores)), json.dumps(sizes), config.precision.weights]
    environment = child_environment(config, machine, None)
    said = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, *told], env=environment, stdout=subprocess.PIPE, check=True
    )
    flop_s, bytes_s = json.loads(said.stdout)
    return Ceilings(flop_s, bytes_s, f"measured {datetime.now(UTC):%Y-%m-%d}")


def keep(found: Ceilings, machine: Machine, dtype: str) -> None:
    if (file := _file(machine, dtype)) is not None:
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(found)), encoding="utf-8")
        aside.replace(file)


def kept(machine: Machine, dtype: str) -> Ceilings | None:
    """None where it was never measured, or not by this version."""
    file = _file(machine, dtype)
    try:
        return None if file is None else Ceilings(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _file(machine: Machine, dtype: str) -> Path | None:
    folder = own_folder(FOLDER)
    name = hashlib.sha256(json.dumps([machine.cpu, len(machine.cores), dtype]).encode()).hexdigest()[:16]
    return None if folder is None else folder / f"ceilings-{name}.json"
