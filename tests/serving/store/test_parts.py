"""A stage's tables: complete once the manifest is there, and verified against it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.digest import sha256_of
from serving.store import parts as parts_module
from serving.store.parts import ROWS_PER_PART, Manifest, Part, PartWriter, read_manifest, verify_parts
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.witness import Witness

SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.string())])


def written(folder: Path, rows: int = 3) -> Manifest:
    parts = PartWriter(folder, "admit", {"requests": SCHEMA, "refusals": SCHEMA})
    parts.extend("requests", ({"row": row, "text": f"t{row}"} for row in range(rows)))
    return parts.finish({"rows": rows})


def test_a_stage_without_a_manifest_has_not_completed(tmp_path: Path) -> None:
    parts = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    parts.extend("requests", ({"row": row, "text": ""} for row in range(ROWS_PER_PART)))  # one part is written
    assert list(tmp_path.glob("*.parquet"))
    assert read_manifest(tmp_path / "admit.json") is None


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "admit.json") is None
    assert written(tmp_path) == read_manifest(tmp_path / "admit.json")


def test_the_rows_come_back_in_order_over_all_parts(tmp_path: Path) -> None:
    manifest = written(tmp_path, ROWS_PER_PART + 2)
    assert len(manifest.files("requests")) == 2
    assert manifest.read("requests", SCHEMA, ["row"])["row"].to_pylist() == list(range(ROWS_PER_PART + 2))
    tables = list(manifest.tables("requests", ["row"]))
    assert [row for table in tables for row in table["row"].to_pylist()] == list(range(ROWS_PER_PART + 2))


def test_the_manifest_counts_the_rows_of_each_table(tmp_path: Path) -> None:
    manifest = written(tmp_path, 3)
    assert (manifest.rows("requests"), manifest.rows("refusals")) == (3, 0)


def test_a_table_without_rows_has_no_file_and_reads_as_empty(tmp_path: Path) -> None:
    table = written(tmp_path).read("refusals", SCHEMA)
    assert (table.num_rows, table.schema) == (0, SCHEMA)


def test_the_manifest_holds_the_digest_of_each_part(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    assert [part.witness.sha256 for part in manifest.parts] == [sha256_of(file) for file in manifest.files("requests")]


def test_verify_counts_the_files_it_checked(tmp_path: Path) -> None:
    assert verify_parts(written(tmp_path, ROWS_PER_PART + 2)) == 2


def test_a_flipped_bit_in_a_part_is_found(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    [file] = manifest.files("requests")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    words = r"admit-requests-00000\.parquet: bytes 0 to \d+ differ .*; sha256 is [0-9a-f]{64}, its manifest says"
    with pytest.raises(Corrupt, match=words):
        verify_parts(manifest)


def test_a_missing_part_is_found(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    manifest.files("requests")[0].unlink()
    with pytest.raises(Corrupt, match=r"admit-requests-00000\.parquet: missing; its manifest lists it with"):
        verify_parts(manifest)


def test_a_count_that_is_not_the_files_is_found_even_under_a_seal(tmp_path: Path) -> None:
    written(tmp_path)
    facts = read_sealed(tmp_path / "admit.json")
    facts["parts"][0]["rows"] = 4
    write_sealed(tmp_path / "admit.json", facts)
    manifest = read_manifest(tmp_path / "admit.json")
    assert manifest is not None
    with pytest.raises(Corrupt, match="3 rows, the manifest says 4"):
        verify_parts(manifest)


@pytest.mark.parametrize("content", ["{", '{"parts": []}', "\udc80"])
def test_a_manifest_that_cannot_be_read_is_corrupt_not_absent(tmp_path: Path, content: str) -> None:
    (tmp_path / "admit.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(Corrupt, match=r"admit\.json: .* do not end in a seal"):
        read_manifest(tmp_path / "admit.json")


@pytest.mark.parametrize("facts", [{"parts": []}, {"parts": [{}], "figures": {}}, {"parts": 7, "figures": {}}])
def test_a_sealed_file_that_is_no_manifest_is_corrupt(tmp_path: Path, facts: dict[str, object]) -> None:
    write_sealed(tmp_path / "admit.json", facts)
    with pytest.raises(Corrupt, match=r"admit\.json: not a stage's manifest: (Key|Type)Error"):
        read_manifest(tmp_path / "admit.json")


def test_a_stage_that_is_written_again_replaces_what_a_crash_left(tmp_path: Path) -> None:
    first = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    first.extend("requests", ({"row": row, "text": "old"} for row in range(ROWS_PER_PART)))
    manifest = written(tmp_path, 1)
    assert manifest.figures == {"rows": 1}
    assert pq.read_table(manifest.files("requests")[0])["text"].to_pylist() == ["t0"]


def test_leftovers_of_a_try_that_was_broken_off_are_gone(tmp_path: Path) -> None:
    broken_off = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    broken_off.extend("requests", ({"row": row, "text": ""} for row in range(2 * ROWS_PER_PART)))
    (tmp_path / ".admit-requests-00002.parquet.77.writing").touch()
    (tmp_path / "route-routes-00000.parquet").touch()  # another stage's
    written(tmp_path, 1)
    names = ["admit-requests-00000.parquet", "admit.json", "route-routes-00000.parquet"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_long_texts_fill_a_part_before_its_rows_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "BYTES_PER_PART", 100)
    parts = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    for row in range(7):
        parts.add("requests", {"row": row, "text": "x" * 40}, size_bytes=40)
    # 3 x 40 characters are the first to pass 100; the seventh row is alone.
    assert [part.rows for part in parts.finish({}).parts] == [3, 3, 1]


def test_many_rows_at_once_come_after_those_that_were_added_before(tmp_path: Path) -> None:
    parts = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    parts.add("requests", {"row": 0, "text": "first"})
    many = pa.table({"row": range(1, ROWS_PER_PART + 3), "text": pa.nulls(ROWS_PER_PART + 2, pa.large_string())})
    parts.add_table("requests", many)
    parts.add("requests", {"row": ROWS_PER_PART + 3, "text": "last"})
    manifest = parts.finish({})
    assert [part.rows for part in manifest.parts] == [1, ROWS_PER_PART, 2, 1]
    assert manifest.read("requests", SCHEMA)["row"].to_pylist() == list(range(ROWS_PER_PART + 4))
    assert {table.schema for table in manifest.tables("requests")} == {SCHEMA}


def test_a_table_of_no_rows_adds_no_part(tmp_path: Path) -> None:
    parts = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    parts.add_table("requests", SCHEMA.empty_table())
    assert parts.finish({}).parts == []


@pytest.mark.parametrize("rows", [2, 4])
def test_an_array_of_other_rows_than_its_manifest_says_is_corrupt(tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((rows, 5)))
    witness = Witness.of((tmp_path / "a.npy").read_bytes())
    with pytest.raises(Corrupt, match=rf"a\.npy: {rows} rows, the manifest says 3"):
        verify_parts(Manifest(tmp_path / "embed.json", [Part("a.npy", "vectors", 3, witness)], {}))
