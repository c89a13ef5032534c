"""Ids are unique over all files, however many there are."""

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.intake import ids as module
from serving.intake.files import BadInput
from serving.intake.ids import Ids, must_be_unique


def first_twin(folder: Path, names: list[str], split: int = 2) -> str | None:
    """Every so many are noted by another process."""
    key = os.urandom(16)
    with Ids(folder, key) as ids, Ids(folder, key) as others:
        for line, name in enumerate(names, start=1):
            (others if line % split == 0 else ids).note(line, name, f"in.jsonl:{line}")
        try:
            must_be_unique([ids, others])
        except BadInput as refused:
            return str(refused)
    return None


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12), st.integers(1, 13))
def test_the_first_id_that_comes_again_is_named_with_both_places(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], split: int
) -> None:
    told = first_twin(tmp_path_factory.getbasetemp(), names, split)
    again = next((place for place, name in enumerate(names) if name in names[:place]), None)
    if again is None:
        assert told is None
    else:
        places = f"in.jsonl:{names.index(names[again]) + 1} and in.jsonl:{again + 1}"
        assert told == f"E_DUPID id {names[again]!r} stands twice, at {places}; give every row its own id"


@pytest.mark.parametrize("chunk_rows", [1, 3])
@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12), st.integers(1, 13))
def test_it_is_the_same_one_where_few_are_looked_at_together(
    tmp_path_factory: pytest.TempPathFactory, chunk_rows: int, names: list[str], split: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    together = first_twin(folder, names, split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", chunk_rows)
        patch.setattr(module, "CHUNK_BYTES", module.ENDS_BYTES + chunk_rows * module.RECORD.itemsize)
        patch.setattr(module, "BATCH_ROWS", 2)
        assert first_twin(folder, names, split) == together


def test_ids_of_which_half_of_the_digest_is_equal_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        def __init__(self, text: bytes, **_: object) -> None:
            self.text = text

        def digest(self) -> bytes:
            return self.text.ljust(16, b"\0")[::-1]

    monkeypatch.setattr(module, "blake2b", Half)
    assert first_twin(tmp_path, ["a", "b", "c"]) is None
    assert "'b' stands twice, at in.jsonl:2 and in.jsonl:4" in (first_twin(tmp_path, ["a", "b", "c", "b"]) or "")


@pytest.mark.parametrize("equal", [False, True])
def test_four_times_the_ids_take_no_more_memory(tmp_path: Path, equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all of them are one."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 1024)
    monkeypatch.setattr(module, "CHUNK_BYTES", module.ENDS_BYTES + 1024 * module.RECORD.itemsize)
    monkeypatch.setattr(module, "BATCH_ROWS", 2048)
    peaks = []
    for count in (10_000, 40_000):
        tracemalloc.start()
        with Ids(tmp_path, b"key") as ids:
            for number in range(count):
                ids.note(number, "one" if equal else f"a rather long id, number {number}", "in.jsonl:1")
            if equal:
                with pytest.raises(BadInput, match="'one' stands twice"):
                    must_be_unique([ids])
            else:
                must_be_unique([ids])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_no_file_is_left_of_ids(tmp_path: Path) -> None:
    with Ids(tmp_path, b"key") as ids:
        ids.note(0, "one", "in.jsonl:1")
        ids.flush()
        assert list(tmp_path.iterdir()) == []
