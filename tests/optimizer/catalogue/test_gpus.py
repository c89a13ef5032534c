"""GPUs by the names that drivers, price lists and others' tables of measurements use."""

import pytest

from optimizer.catalogue.catalogue import UnknownName, gpu, shipped

AS_OTHERS_WRITE = {
    "A100 (memory size not stated in repo; verify 40GB vs 80GB in arXiv 2411.00136)": "A100-SXM4-80GB",
    "A100-80GB": "A100-SXM4-80GB",
    "A100-SXM-80GB": "A100-SXM4-80GB",
    "AMD Instinct MI300X-NPS1-SPX-192GB-750W": "MI300X",
    "AMD MI300X-NPS1-SPX-192GB-750W": "MI300X",
    "B200-SXM-180GB": "B200-SXM-180GB",
    "GB200-192GB": "GB200",
    "GH200-480GB(96GB HBM3)": "GH200-96GB",
    "GH200-96GB": "GH200-96GB",
    "H100-80GB": "H100-SXM-80GB",
    "H100-SXM-80GB": "H100-SXM-80GB",
    "H200-SXM-141GB": "H200-SXM-141GB",
    "L40S-48GB": "L40S",
    "NVIDIA B200-SXM-180GB": "B200-SXM-180GB",
    "NVIDIA GB200": "GB200",
    "NVIDIA GB300": "GB300",
    "NVIDIA GH200 Grace Hopper Superchip 144GB": "GH200-144GB",
    "NVIDIA GH200 Grace Hopper Superchip 96GB": "GH200-96GB",
    "NVIDIA H100-NVL-94GB": "H100-NVL-94GB",
    "NVIDIA H100-PCIe-80GB": "H100-PCIe-80GB",
    "NVIDIA H100-SXM-80GB": "H100-SXM-80GB",
    "NVIDIA H200-NVL-141GB": "H200-NVL-141GB",
    "NVIDIA H200-SXM-141GB": "H200-SXM-141GB",
    "NVIDIA H200-SXM-141GB-CTS": "H200-SXM-141GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-Blackwell-Server",
    "RTX-PRO-6000-Blackwell-Server-96GB": "RTX-PRO-6000-Blackwell-Server",
    "Virtualized NVIDIA H200-SXM-141GB": "H200-SXM-141GB",
}
AS_DRIVERS_WRITE = {
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100-SXM2-16GB",
    "Tesla V100-SXM2-32GB": "V100-SXM2-32GB",
    "NVIDIA A10G": "A10G",
    "NVIDIA A100-SXM4-40GB": "A100-SXM4-40GB",
    "NVIDIA A100 80GB PCIe": "A100-PCIe-80GB",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GH200 480GB": "GH200-96GB",
    "NVIDIA H100 80GB HBM3": "H100-SXM-80GB",
    "NVIDIA H100 PCIe": "H100-PCIe-80GB",
    "NVIDIA H100 NVL": "H100-NVL-94GB",
    "NVIDIA H200": "H200-SXM-141GB",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
}
IN_SHORT = {
    "h100": "H100-SXM-80GB",
    "a100": "A100-SXM4-80GB",
    "l40s": "L40S",
    "l4": "L4",
    "rtx4090": "RTX 4090",
    "4090": "RTX 4090",
    "a10": "A10",
    "a10g": "A10G",
    "t4": "T4",
}
ALL = {**AS_OTHERS_WRITE, **AS_DRIVERS_WRITE, **IN_SHORT}


@pytest.mark.parametrize("name", ALL)
def test_a_gpu_is_found_by_the_names_it_goes_by(name: str) -> None:
    assert gpu(name).name == ALL[name]


@pytest.mark.parametrize("name", shipped().gpu_names)
def test_every_gpu_has_memory_a_rate_a_link_and_a_source(name: str) -> None:
    found = gpu(name)
    assert found.name == name
    assert min(found.memory_gib, found.memory_gb_s, found.bf16_tflops, found.link_gb_s) > 0
    assert found.source


@pytest.mark.parametrize("name", shipped().gpu_names)
def test_rates_are_dense_a_narrower_number_is_at_most_so_many_times_faster(name: str) -> None:
    """Sparse figures, twice as high, are what datasheets print in large letters."""
    found = gpu(name)
    assert found.fp8_tflops <= 2.05 * found.bf16_tflops
    assert found.fp4_tflops <= 8.05 * found.bf16_tflops
    assert found.int8_tops <= 4.05 * found.bf16_tflops


def test_what_nobody_checked_against_the_vendor_is_marked() -> None:
    assert gpu("h20").unchecked
    assert not gpu("h100").unchecked


def test_the_a10g_does_not_get_the_rate_of_the_a10() -> None:
    assert (gpu("a10").bf16_tflops, gpu("a10g").bf16_tflops) == (125, 70)


def test_ampere_has_no_fp8_units() -> None:
    assert {gpu(name).fp8_tflops for name in ("a100", "a10g", "rtx 3090")} == {0}


def test_int8_is_gone_on_blackwell_ultra() -> None:
    assert gpu("b300").int8_tops < gpu("b200").int8_tops / 20


def test_an_unknown_gpu_names_the_nearest_ones_and_how_to_add_it() -> None:
    with pytest.raises(UnknownName, match=r"GPU 'H100-SMX' is not .* nearest: H100-SXM-80GB, .*\[gpus\.'H100-SMX'\]"):
        gpu("H100-SMX")


def test_a_cpu_is_no_gpu() -> None:
    with pytest.raises(UnknownName):
        gpu("AMD EPYC 9R14")
