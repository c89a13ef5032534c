"""What a GPU can do, as the catalogue knows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. Rates are the datasheet's dense peaks, 0 where it has no such units; sizes are usable."""

    name: str
    architecture: str  # "Hopper"
    capability: float  # NVIDIA's compute capability; 0 for other makers
    memory_gib: float
    memory_gb_s: float
    bf16_tflops: float  # fp16 where it has no bf16
    fp8_tflops: float
    int8_tops: float
    fp4_tflops: float
    link_gb_s: float  # to the other GPUs of its node, one direction
    nvlink: bool  # or another maker's fabric of that kind; else the link is PCIe
    source: str
    unchecked: bool = False  # not checked against a file of the vendor's
