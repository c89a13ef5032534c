"""A stage's tables: complete once the manifest is there, and verified against it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.digest import sha256_of
from serving.store.parts import ROWS_PER_PART, Corrupt, Manifest, PartWriter, read_manifest, verify_parts

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
    assert [row["row"] for row in manifest.iterate("requests")] == list(range(ROWS_PER_PART + 2))


def test_the_manifest_counts_the_rows_of_each_table(tmp_path: Path) -> None:
    manifest = written(tmp_path, 3)
    assert (manifest.rows("requests"), manifest.rows("refusals")) == (3, 0)


def test_a_table_without_rows_has_no_file_and_reads_as_empty(tmp_path: Path) -> None:
    table = written(tmp_path).read("refusals", SCHEMA)
    assert (table.num_rows, table.schema) == (0, SCHEMA)


def test_the_manifest_holds_the_digest_of_each_part(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    assert [part["sha256"] for part in manifest.parts] == [sha256_of(file) for file in manifest.files("requests")]


def test_verify_counts_the_files_it_checked(tmp_path: Path) -> None:
    assert verify_parts(written(tmp_path, ROWS_PER_PART + 2)) == 2


def test_a_flipped_byte_in_a_part_is_found(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    [file] = manifest.files("requests")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(Corrupt, match=r"admit-requests-00000\.parquet: sha256 is [0-9a-f]{64}, the manifest says"):
        verify_parts(manifest)


def test_a_missing_part_is_found(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    manifest.files("requests")[0].unlink()
    with pytest.raises(Corrupt, match="missing; the manifest lists it with 3 rows"):
        verify_parts(manifest)


def test_a_count_that_is_not_the_files_is_found(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "admit.json"
    file.write_text(file.read_text().replace('"rows": 3', '"rows": 4', 1))
    manifest = read_manifest(file)
    assert manifest is not None
    with pytest.raises(Corrupt, match="3 rows, the manifest says 4"):
        verify_parts(manifest)


@pytest.mark.parametrize("content", ["{", '{"parts": []}', "\udc80"])
def test_a_manifest_that_cannot_be_read_is_corrupt_not_absent(tmp_path: Path, content: str) -> None:
    (tmp_path / "admit.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(Corrupt, match=r"admit\.json: not a manifest"):
        read_manifest(tmp_path / "admit.json")


def test_a_stage_that_is_written_again_replaces_what_a_crash_left(tmp_path: Path) -> None:
    first = PartWriter(tmp_path, "admit", {"requests": SCHEMA})
    first.extend("requests", ({"row": row, "text": "old"} for row in range(ROWS_PER_PART)))
    manifest = written(tmp_path, 1)
    assert json.loads((tmp_path / "admit.json").read_text())["figures"] == {"rows": 1}
    assert pq.read_table(manifest.files("requests")[0])["text"].to_pylist() == ["t0"]
