"""What a machine can run, and the settings that follow from it, on machines that are made up."""

from dataclasses import replace

import pytest

from serving.engine_config import Batching, EngineConfig, PagedCache, Precision
from serving.engines.gpus import Gpu
from serving.engines.machine import GIB, Machine, settled, this_machine

L4 = Gpu("NVIDIA L4", 24 * GIB, 8.9)
OLD_CPU = Machine("an old Xeon", (0, 1, 2, 3), frozenset({"avx2", "fma"}), 16 * GIB, 8 * GIB, ())
NEW_CPU = replace(OLD_CPU, flags=frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}))
ONE_GPU = replace(OLD_CPU, gpus=(L4,))
TWO_GPUS = replace(OLD_CPU, gpus=(L4, L4))


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ((), "float32"),
        (("avx2", "avx512f", "avx512_vnni"), "float32"),
        (("avx512_bf16",), "bfloat16"),
        (("amx_bf16",), "bfloat16"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_multiplies_it_natively(flags: tuple[str, ...], dtype: str) -> None:
    machine = replace(OLD_CPU, flags=frozenset(flags))
    assert settled(EngineConfig(), machine).precision.weights == dtype


def test_a_gpu_computes_in_bfloat16() -> None:
    assert settled(EngineConfig(), ONE_GPU).precision.weights == "bfloat16"


def test_a_precision_that_was_asked_for_is_kept() -> None:
    assert settled(EngineConfig(precision=Precision("float16")), NEW_CPU).precision.weights == "float16"


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_int8_is_fast_with_any_of_the_dot_product_instructions(flag: str) -> None:
    assert replace(OLD_CPU, flags=frozenset({flag})).has_fast_int8


def test_int8_is_not_fast_without_them() -> None:
    assert not OLD_CPU.has_fast_int8


@pytest.mark.parametrize(
    ("free_gib", "kv_gib"),
    [
        (8, 2.0),  # a quarter of what is free
        (0.5, 0.25),  # a quarter would be 0.125; at least a quarter of a GiB
        (100, 8.0),  # a quarter would be 25; at most 8
    ],
)
def test_the_kv_cache_takes_a_quarter_of_free_memory_within_bounds(free_gib: float, kv_gib: float) -> None:
    assert settled(EngineConfig(), replace(OLD_CPU, available_bytes=int(free_gib * GIB))).cache.memory_gib == kv_gib


@pytest.mark.parametrize(
    ("wanted_gib", "kv_gib"),
    [
        (1, 1.0),  # less than a quarter of 8
        (5, 2.0),  # a quarter of 8 is all there is
        (0, 0.25),  # at least a quarter of a GiB
    ],
)
def test_the_kv_cache_is_no_larger_than_the_work_can_use(wanted_gib: int, kv_gib: float) -> None:
    assert settled(EngineConfig(), OLD_CPU, wanted_gib * GIB).cache.memory_gib == kv_gib


def test_a_kv_cache_that_was_asked_for_is_kept() -> None:
    cache = PagedCache(block_tokens=64, memory_gib=3.0)
    assert settled(EngineConfig(cache=cache), OLD_CPU).cache == cache


def test_blocks_on_a_cpu_are_of_32_tokens() -> None:
    assert settled(EngineConfig(), OLD_CPU).cache.block_tokens == 32


def test_a_gpu_keeps_its_own_block_size_and_memory() -> None:
    assert settled(EngineConfig(), ONE_GPU).cache == PagedCache()


@pytest.mark.parametrize(("machine", "compiled"), [(OLD_CPU, False), (NEW_CPU, False), (ONE_GPU, True)])
def test_only_a_gpu_makes_compiling_worth_its_start_up(machine: Machine, compiled: bool) -> None:
    assert settled(EngineConfig(), machine).compiled is compiled


def test_compiling_that_was_asked_for_is_kept() -> None:
    assert settled(EngineConfig(compiled=True), OLD_CPU).compiled is True


def test_settling_leaves_what_is_not_the_machines_business() -> None:
    asked = EngineConfig(batching=Batching(7, 512), max_model_len=1024)
    found = settled(asked, OLD_CPU)
    assert (found.batching, found.max_model_len) == (asked.batching, 1024)


def test_settling_twice_changes_nothing() -> None:
    once = settled(EngineConfig(), NEW_CPU)
    assert settled(once, NEW_CPU) == once


def test_this_machine_has_a_core_and_more_memory_than_is_free() -> None:
    machine = this_machine()
    assert machine.cores
    assert 0 < machine.available_bytes <= machine.memory_bytes
