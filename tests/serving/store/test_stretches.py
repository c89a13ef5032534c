"""What is put into stretches on disk comes back stretch by stretch, in memory that does not grow with the rows."""

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.store import stretches as module
from serving.store.durable import DiskFault
from serving.store.stretches import Stretches


@given(st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=6), st.integers(1, 9))
def test_a_stretch_gives_back_its_rows_in_the_order_in_which_they_came(parts: list[list[int]], waiting: int) -> None:
    number, put = 0, []
    with TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAITING_ROWS", waiting)
        stretches = Stretches(file)
        for part in parts:
            names = [None if number % 5 == 0 else f"row {number}" for number in range(number, number + len(part))]
            tokens = [[number] * (number % 3) for number in range(number, number + len(part))]
            number += len(part)
            table = pa.table({"name": pa.array(names, pa.string()), "tokens": pa.array(tokens, pa.list_(pa.int32()))})
            stretches.add(table, np.array(part, np.int64))
            put += list(zip(part, table.to_pylist(), strict=True))
        for stretch in [4, 0, 1, 3, 2]:  # in any order
            found = stretches.read(stretch)
            assert ([] if found is None else found.to_pylist()) == [row for at, row in put if at == stretch]


def test_four_times_the_rows_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 2**20)
    peaks = []
    for parts in (50, 200):
        pool = pa.system_memory_pool()
        before, most = pool.bytes_allocated(), 0
        with TemporaryFile(dir=tmp_path) as file:
            stretches = Stretches(file)
            for part in range(parts):
                text = pa.array([f"{part} {row}" * 20 for row in range(1000)], pa.string(), memory_pool=pool)
                stretches.add(pa.table({"text": text}), np.arange(1000) % 50)
                most = max(most, pool.bytes_allocated() - before)
        peaks.append(most)
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("lost", ["the end", "the middle"])
def test_rows_that_the_disk_lost_are_told_and_never_given_back_otherwise(lost: str) -> None:
    with TemporaryFile() as file:
        stretches = Stretches(file)
        stretches.add(pa.table({"row": [0, 1, 2]}), np.array([0, 0, 1]))
        assert stretches.read(0) == pa.table({"row": [0, 1]})
        size = file.seek(0, 2)
        if lost == "the end":
            file.truncate(size - 1)
        else:
            file.seek(size - 100)
            file.write(bytes(80))
        with pytest.raises(DiskFault, match="check it"):
            stretches.read(1)
