"""Witnesses: any change of a file is seen, and its place is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.store.sealed import Corrupt
from serving.store.witness import BLOCK_BYTES, Witness

SIZE = 3 * BLOCK_BYTES + 100
DATA = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "table").write_bytes(DATA)
    return tmp_path / "table"


def fault(file: Path) -> str:
    with pytest.raises(Corrupt) as found:
        Witness.of(DATA).check(file)
    return str(found.value)


@settings(deadline=None)  # a busy machine is no fault
@given(data=st.binary(max_size=300))
def test_a_file_is_the_one_that_was_seen(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "seen"
    file.write_bytes(data)
    Witness.of(data).check(file)


def test_a_witness_reads_back_from_a_manifest() -> None:
    assert Witness.from_facts(Witness.of(DATA).to_facts()) == Witness.of(DATA)


@pytest.mark.parametrize(
    ("place", "block"),
    [
        (0, "bytes 0 to 65535"),
        (BLOCK_BYTES - 1, "bytes 0 to 65535"),
        (BLOCK_BYTES, "bytes 65536 to 131071"),
        (SIZE - 1, f"bytes 196608 to {SIZE - 1}"),
    ],
)
def test_a_flipped_bit_names_its_block(file: Path, place: int, block: str) -> None:
    file.write_bytes(DATA[:place] + bytes([DATA[place] ^ 1]) + DATA[place + 1 :])
    assert f"{file}: {block} differ (crc32 " in fault(file)


def test_what_was_found_and_what_was_expected_are_said(file: Path) -> None:
    file.write_bytes(DATA[:-1] + b"x")
    assert fault(file).endswith(f"its manifest says {Witness.of(DATA).sha256}")
    assert f"sha256 is {Witness.of(file.read_bytes()).sha256}" in fault(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: 2 * BLOCK_BYTES], f"{2 * BLOCK_BYTES} bytes, there were {SIZE}"),
        (lambda data: data[:-1], f"bytes {3 * BLOCK_BYTES} to {SIZE - 1} differ"),
        (lambda data: data + b"x", f"bytes {3 * BLOCK_BYTES} to {SIZE} differ"),
        (lambda data: b"", f"0 bytes, there were {SIZE}"),
    ],
    ids=["shorter by a block", "shorter by a byte", "longer", "empty"],
)
def test_a_file_of_another_size_is_found(file: Path, change: Callable[[bytes], bytes], said: str) -> None:
    file.write_bytes(change(DATA))
    assert said in fault(file)


def test_a_file_that_is_longer_by_whole_blocks_is_found(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(bytes(2 * BLOCK_BYTES))
    with pytest.raises(Corrupt, match=f"{2 * BLOCK_BYTES} bytes, there were {BLOCK_BYTES}"):
        Witness.of(bytes(BLOCK_BYTES)).check(tmp_path / "table")


def test_a_missing_file_is_found(file: Path) -> None:
    file.unlink()
    assert fault(file) == f"{file}: missing; its manifest lists it with {SIZE} bytes, sha256 {Witness.of(DATA).sha256}"
