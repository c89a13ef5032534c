"""Equal keys are found on disk as they are in memory, in memory that does not grow with the rows."""

import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import equal_keys
from optimizer.collapse import exact_representatives
from optimizer.equal_keys import Keyed, representatives

SPILL = partial(SpooledTemporaryFile, 64)


def keyed(kinds: list[int], repeatable: list[bool]) -> Keyed:
    """Row numbers have gaps, as where rows were refused; keys that differ may begin alike."""
    keys = np.array([[7, kind, 0, kind % 2] for kind in kinds], np.uint64).reshape(-1, 4)
    return Keyed(np.arange(len(kinds)) * 3, keys, np.array(repeatable, np.bool_))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_on_disk_the_same_rows_represent_others_as_in_memory(
    rows: list[tuple[int, bool]], part_rows: int, block_rows: int, batch_rows: int
) -> None:
    whole = keyed([kind for kind, _ in rows], [repeatable for _, repeatable in rows])
    parts = [
        Keyed(*(column[start : start + part_rows] for column in whole)) for start in range(0, len(rows), part_rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_keys, "BLOCK_ROWS", block_rows)
        patch.setattr(equal_keys, "BATCH_ROWS", batch_rows)
        blocks = list(representatives(parts, SPILL))
    assert [row for block in blocks for row in block.rows] == whole.rows.tolist()
    assert [row for block in blocks for row in block.first] == exact_representatives(*whole).tolist()
    assert all(len(block.rows) == block_rows for block in blocks[:-1])


@given(st.binary(min_size=32 * 40, max_size=32 * 40))
def test_keys_that_begin_otherwise_are_in_other_buckets_and_none_is_lost(text: bytes) -> None:
    keys = np.frombuffer(text * 2, np.uint64).reshape(-1, 4)
    whole = Keyed(np.arange(len(keys)), keys, np.ones(len(keys), np.bool_))
    (block,) = representatives([whole], SPILL)
    assert block.first.tolist() == exact_representatives(*whole).tolist()


@pytest.mark.parametrize("kinds", [2**63, 1], ids=["all differ", "all are equal"])
def test_four_times_the_rows_take_no_more_memory(kinds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_keys, "BLOCK_ROWS", 10_000)
    monkeypatch.setattr(equal_keys, "BATCH_ROWS", 5_000)

    def parts(count: int) -> Iterator[Keyed]:
        for start in range(0, count, 10_000):
            keys = np.random.default_rng(start).integers(0, kinds, (10_000, 4), np.uint64)
            yield Keyed(np.arange(start, start + 10_000), keys, np.ones(10_000, np.bool_))

    peaks = []
    for count in (200_000, 800_000):
        tracemalloc.start()
        assert (
            sum(len(block.rows) for block in representatives(parts(count), partial(TemporaryFile, dir=tmp_path)))
            == count
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
