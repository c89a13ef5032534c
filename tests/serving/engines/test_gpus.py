"""Which GPUs a process may use, from what a driver says, which here is a script."""

from pathlib import Path

import pytest

from serving.engines import gpus
from serving.engines.gpus import Gpu, GpuSilent, nvidia_gpus, visible

A = Gpu("NVIDIA L4", 2**34, 8.9, "0", "GPU-8a31f8e2-1111")
B = Gpu("NVIDIA L4", 2**34, 8.9, "1", "GPU-8b72c4d0-2222")
C = Gpu("NVIDIA H200", 2**37, 9.0, "2", "GPU-9c000000-3333")


@pytest.fixture(autouse=True)
def ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_gpus.cache_clear()
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, (A, B, C)),
        ("0,1,2", (A, B, C)),
        ("2, 0", (C, A)),
        ("GPU-8b72c4d0-2222", (B,)),
        ("GPU-9c", (C,)),
        ("1,7,0", (B,)),  # a name that fits none ends the list
        ("", ()),
        ("-1", ()),
    ],
)
def test_a_process_sees_the_gpus_that_cuda_lets_it_see(asked: str | None, seen: tuple[Gpu, ...]) -> None:
    assert visible([A, B, C], asked) == seen


def test_a_slice_of_a_gpu_is_one() -> None:
    [only] = visible([A], "MIG-5f3c")
    assert (only.name, only.number) == ("NVIDIA L4", "MIG-5f3c")


def test_no_gpu_is_made_up_where_there_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_gpus(2**30) == ()


def test_gpus_are_read_as_the_driver_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(
        tmp_path,
        monkeypatch,
        'echo "0, GPU-1a, NVIDIA H100 80GB HBM3, 81559, 9.0"; echo "1, GPU-2b, NVIDIA L4, 23034, 8.9"',
    )
    assert nvidia_gpus(2**30) == (
        Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, 9.0, "0", "GPU-1a"),
        Gpu("NVIDIA L4", 23034 * 2**20, 8.9, "1", "GPU-2b"),
    )


def test_a_gpu_that_has_no_memory_of_its_own_has_its_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, 'echo "0, GPU-1a, NVIDIA GB10, [N/A], 12.1"')
    [only] = nvidia_gpus(2**37)
    assert only.memory_bytes == 2**37


def test_a_driver_that_fails_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo no devices were found; exit 6")
    assert nvidia_gpus(2**30) == ()


def test_a_driver_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ANSWERS_S", 0.2)
    driver(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(GpuSilent, match="nvidia-smi has not answered"):
        nvidia_gpus(2**30)
