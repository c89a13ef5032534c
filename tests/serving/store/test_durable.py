"""Durable writes: what has a name is complete, and its digest is that of its bytes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.digest import sha256_of
from serving.store.durable import make_folder, write_blocks, write_bytes, write_json, write_parquet


@given(blocks=st.lists(st.binary(max_size=100), max_size=10))
def test_the_blocks_are_written_one_after_another(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "blocks"
    digest = write_blocks(file, blocks)
    assert file.read_bytes() == b"".join(blocks)
    assert digest == sha256_of(file) == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"


def broken_off() -> Iterator[bytes]:
    yield b"half"
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_blocks(tmp_path / "a", broken_off())
    assert not (tmp_path / "a").exists()


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"whole")
    with pytest.raises(OSError, match="No space left"):
        write_blocks(tmp_path / "a", broken_off())
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_only_the_owner_can_read_what_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"secret")
    make_folder(tmp_path / "b" / "c")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "b/c")]
    assert modes == [0o600, 0o700, 0o700]


def test_a_folder_may_be_there_already(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert tmp_path.is_dir()


def test_json_is_written_as_text_that_a_person_can_read(tmp_path: Path) -> None:
    digest = write_json(tmp_path / "a.json", {"name": "naïve"})
    assert (tmp_path / "a.json").read_text() == '{\n "name": "naïve"\n}\n'
    assert digest == sha256_of(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "naïve"}


def test_a_table_is_written_with_page_checksums(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(100))})
    digest = write_parquet(tmp_path / "a.parquet", table)
    assert digest == sha256_of(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet", page_checksum_verification=True) == table
