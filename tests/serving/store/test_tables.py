"""Tables: Parquet whose bytes are witnessed, and whose pages carry checksums of their own."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serving.digest import sha256_of
from serving.store.tables import read_table, write_table

TABLE = pa.table({"a": list(range(100)), "b": ["x"] * 100})


def test_a_table_is_written_with_page_checksums(tmp_path: Path) -> None:
    witness = write_table(tmp_path / "a.parquet", TABLE)
    assert witness.sha256 == sha256_of(tmp_path / "a.parquet")
    assert witness.size_bytes == (tmp_path / "a.parquet").stat().st_size
    assert pq.read_table(tmp_path / "a.parquet", page_checksum_verification=True) == TABLE


def test_columns_are_read_alone_if_asked(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    assert read_table(tmp_path / "a.parquet") == TABLE
    assert read_table(tmp_path / "a.parquet", ["b"]).column_names == ["b"]


def test_nothing_is_read_into_the_names_of_folders(tmp_path: Path) -> None:
    (tmp_path / "a=1").mkdir()
    write_table(tmp_path / "a=1" / "t.parquet", TABLE)
    assert read_table(tmp_path / "a=1" / "t.parquet") == TABLE
