"""Kept vectors: what is durable is not embedded again, what no longer fits is, and a changed byte is seen."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.reuse import vectors as vectors_module
from serving.reuse.embed import Vectors
from serving.reuse.vectors import KEYS, VECTORS, Keys, MadeBy, VectorStore
from serving.store.durable import WRITING, Disk
from serving.store.parts import read_manifest, verify_parts
from serving.store.sealed import Corrupt, read_sealed, write_sealed

ENCODER = MadeBy("abc", 256)
BLOCK = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", BLOCK)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "vectors" / "embed.json"


def keys(*texts: str) -> Keys:
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    return np.frombuffer(digests, np.uint64).reshape(-1, 4)


def vectors(rows: int, start: int = 0) -> Vectors:
    return np.arange(start * 3, (start + rows) * 3, dtype=np.float32).reshape(rows, 3)


TEN = [f"text {n}" for n in range(10)]


def filled(manifest: Path, rows: int) -> VectorStore:
    store = VectorStore(manifest, keys(*TEN), ENCODER)
    for start in range(0, rows, 2):
        store.append(vectors(2, start))
    return store


def test_vectors_come_back_as_they_were_appended(manifest: Path) -> None:
    kept = filled(manifest, 10).open()
    assert kept.shape == (10, 3)
    assert (kept[np.arange(10)] == vectors(10)).all()


@given(st.lists(st.integers(0, 9), max_size=30))
def test_any_places_can_be_asked_for_in_any_order(tmp_path_factory: pytest.TempPathFactory, places: list[int]) -> None:
    kept = filled(tmp_path_factory.mktemp("kept") / "embed.json", 10).open()
    found = kept[np.array(places, np.int64)]
    assert found.dtype == np.float32
    assert found.tolist() == vectors(10)[places].tolist()


def test_the_manifest_says_what_the_vectors_depend_on(manifest: Path) -> None:
    filled(manifest, 10).open()
    found = read_manifest(manifest)
    assert found is not None
    assert found.figures == {
        "embedder": "abc",
        "max_seq_length": 256,
        "metric": vectors_module.METRIC,
        "rows": 10,
        "dim": 3,
    }
    assert (found.rows(VECTORS), found.rows(KEYS)) == (10, 10)
    assert verify_parts(found) == 6
    assert (np.concatenate([np.load(file) for file in found.files(KEYS)]) == keys(*TEN)).all()


@pytest.mark.parametrize(("appended", "durable"), [(0, 0), (2, 0), (4, 4), (6, 4), (10, 8)])
def test_what_was_embedded_before_a_kill_is_there_to_the_last_full_block(
    manifest: Path, appended: int, durable: int
) -> None:
    filled(manifest, appended)  # and nothing more: it was killed
    again = VectorStore(manifest, keys(*TEN), ENCODER)
    assert again.rows == durable
    again.append(vectors(10 - durable, durable))
    assert (again.open()[np.arange(10)] == vectors(10)).all()


def test_a_stop_in_good_order_loses_nothing(manifest: Path) -> None:
    filled(manifest, 6).flush()
    assert VectorStore(manifest, keys(*TEN), ENCODER).rows == 6


def test_a_complete_store_needs_nothing_more(manifest: Path) -> None:
    filled(manifest, 10).open()
    assert (VectorStore(manifest, keys(*TEN), ENCODER).open()[np.arange(10)] == vectors(10)).all()


def test_not_all_texts_is_not_enough(manifest: Path) -> None:
    with pytest.raises(AssertionError, match="8 of 10 texts"):
        filled(manifest, 8).open()


@pytest.mark.parametrize(
    ("texts", "made_by"),
    [
        (TEN, MadeBy("abd", 256)),
        (TEN, MadeBy("abc", 128)),
        (TEN, MadeBy("abc", None)),
        (["another", *TEN[1:]], ENCODER),
        (TEN[:3], ENCODER),
        ([*TEN[:7], *TEN[8:]], ENCODER),
    ],
    ids=["embedder", "window", "no window", "first text", "fewer texts", "one text less"],
)
def test_vectors_of_other_texts_or_of_another_embedder_are_taken_away(
    manifest: Path, texts: list[str], made_by: MadeBy
) -> None:
    filled(manifest, 10).open()
    assert VectorStore(manifest, keys(*texts), made_by).rows == 0
    assert list(manifest.parent.iterdir()) == []


def test_more_texts_after_the_same_beginning_keep_its_vectors(manifest: Path) -> None:
    filled(manifest, 10).open()
    assert VectorStore(manifest, keys(*TEN, "one more"), ENCODER).rows == 10


def test_a_block_that_no_manifest_lists_does_not_count(manifest: Path) -> None:
    filled(manifest, 4)
    seen = manifest.read_bytes()
    filled(manifest, 10).flush()
    manifest.write_bytes(seen)  # as if it had been killed before the manifest was written again
    again = VectorStore(manifest, keys(*TEN), ENCODER)
    assert again.rows == 4
    again.append(vectors(6, 4))
    assert (again.open()[np.arange(10)] == vectors(10)).all()


@pytest.mark.parametrize("name", ["vectors-00001.npy", "keys-00000.npy"])
def test_a_changed_byte_is_named_with_its_file(manifest: Path, name: str) -> None:
    filled(manifest, 10).open()
    file = manifest.parent / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = read_manifest(manifest)
    assert found is not None
    with pytest.raises(Corrupt, match=f"{name}: bytes 0 to .* differ"):
        verify_parts(found)


def test_a_manifest_that_lists_vectors_without_their_keys_is_corrupt(manifest: Path) -> None:
    filled(manifest, 10).open()
    facts = read_sealed(manifest)
    facts.pop("sha256_of_the_rest", None)
    facts["parts"] = [part for part in facts["parts"] if part["name"] != "keys-00001.npy"]
    write_sealed(manifest, facts)
    with pytest.raises(Corrupt, match="10 vectors of 6 texts"):
        VectorStore(manifest, keys(*TEN), ENCODER)


class Killed(BaseException):
    """Nothing that a process does after it gets through to the disk."""


class Mortal(Disk):
    """A disk of a process that is killed before its call number `calls`."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        for name in ("open", "write", "fsync", "close", "rename", "link", "remove", "make_folder"):
            setattr(self, name, self._counted(getattr(Disk, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return call(*arguments)

        return counted


def test_killed_before_any_call_to_the_disk_it_goes_on_and_ends_with_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, survived = 0, False
    while not survived:
        file = tmp_path / str(calls) / "vectors" / "embed.json"
        with monkeypatch.context() as patch:
            patch.setattr("serving.store.durable.DISK", Mortal(calls))
            try:
                filled(file, 10).open()
                survived = True
            except Killed:
                pass
        again = VectorStore(file, keys(*TEN), ENCODER)
        assert again.rows in (0, 4, 8, 10)
        if again.rows < 10:
            again.append(vectors(10 - again.rows, again.rows))
        assert (again.open()[np.arange(10)] == vectors(10)).all()
        found = read_manifest(file)
        assert found is not None
        verify_parts(found)
        assert not [left for left in file.parent.iterdir() if left.name.endswith(WRITING)]
        calls += 1
    assert calls > 40
