"""Ids are unique over all files, however many there are."""

import os
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


def test_two_ids_of_one_digest_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def digest(self) -> bytes:
            return bytes(8)

    monkeypatch.setattr(module, "blake2b", lambda *_, **__: Zero())
    assert first_twin(tmp_path, ["a", "b", "c"]) is None
    assert "'b' stands twice, at in.jsonl:2 and in.jsonl:4" in (first_twin(tmp_path, ["a", "b", "c", "b"]) or "")


def test_what_is_kept_of_an_id_is_eight_bytes_and_no_file_is_left(tmp_path: Path) -> None:
    with Ids(tmp_path, b"key") as ids:
        for number in range(1000):
            ids.note(number, f"a rather long id, number {number}", "in.jsonl:1")
        assert ids.digests.itemsize * len(ids.digests) == 8000
        assert list(tmp_path.iterdir()) == []
