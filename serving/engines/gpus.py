"""The GPUs that this process may use, as NVIDIA's driver tells them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

VISIBLE = "CUDA_VISIBLE_DEVICES"
ANSWERS_S = 20
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    capability: float  # NVIDIA's compute capability: 8.0 Ampere, 8.9 Ada, 9.0 Hopper, 10.0 Blackwell
    number: str = "0"  # the driver's, or the name of a slice of it (MIG)
    uuid: str = ""


class GpuSilent(OSError):
    """The driver is there, but does not answer: a fault of the machine, which may pass."""


@cache
def nvidia_gpus(own_memory_bytes: int) -> tuple[Gpu, ...]:
    """None without a driver. A GPU that shares the memory of its host, of `own_memory_bytes`, tells none of its own.

    Raises:
        GpuSilent: the driver did not answer in time.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=index,uuid,name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=ANSWERS_S)
    except subprocess.TimeoutExpired:
        raise GpuSilent(
            f"{tool} has not answered in {ANSWERS_S} s: the GPU's driver hangs; restart the machine or its driver"
        ) from None
    lines = found.stdout.strip().splitlines() if found.returncode == 0 else []
    return visible([read(line, own_memory_bytes) for line in lines], os.environ.get(VISIBLE))


def read(line: str, own_memory_bytes: int) -> Gpu:
    number, uuid, rest = line.split(", ", 2)
    name, memory_mib, capability = rest.rsplit(", ", 2)
    memory_bytes = int(memory_mib) * MIB if memory_mib.isdecimal() else own_memory_bytes
    return Gpu(name, memory_bytes, float(capability), number, uuid)


def visible(gpus: Sequence[Gpu], asked: str | None) -> tuple[Gpu, ...]:
    """Those that a value of CUDA_VISIBLE_DEVICES lets a process see, in its order. As CUDA reads it, a name may be the
    start of a UUID, and one that fits none ends the list. A slice of a GPU is told by its name alone."""
    if asked is None:
        return tuple(gpus)
    found = []
    for name in map(str.strip, asked.split(",")):
        if name.startswith("MIG-") and gpus:
            found.append(replace(gpus[0], number=name))
            continue
        one = next((gpu for gpu in gpus if name == gpu.number or _starts(gpu.uuid, name)), None)
        if one is None:
            break
        found.append(one)
    return tuple(found)


def _starts(uuid: str, name: str) -> bool:
    return name.startswith("GPU-") and uuid.startswith(name)
