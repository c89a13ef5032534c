"""Segments: a chain of manifests, each over one table; what is not as it was sealed is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from serving.digest import sha256_of
from serving.records import Charge, Failure, Outcome, Overhead, Settled
from serving.store.parts import Corrupt
from serving.store.schemas import settled_from_columns
from serving.store.segments import SegmentWriter, next_epoch, read_rows, read_segments, verify_segments

FIGURES: dict[str, Any] = {"lane": "full", "seconds": 1.0, "rates": None, "sealed_unix_s": 1000.0}
WASTE = Overhead("waste", "full", 2.0, Decimal("0.5"))
Seal = Callable[..., Path]


@pytest.fixture
def seal(tmp_path: Path, settled: Settled) -> Seal:
    """Seal one segment for each list of row numbers, under one writer; returns the folder."""

    def seal_these(*segments: list[int], overheads: tuple[Overhead, ...] = (WASTE,)) -> Path:
        writer = SegmentWriter(tmp_path, next_epoch(tmp_path))
        for rows in segments:
            writer.seal([replace(settled, row=row) for row in rows], list(overheads), FIGURES)
        return tmp_path

    return seal_these


def corruption(folder: Path) -> str:
    with pytest.raises(Corrupt) as found:
        verify_segments(folder)
    return str(found.value)


def change(manifest: Path, **facts: Any) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **facts}))


# What is sealed.


def test_rows_come_back_as_they_were_sealed(tmp_path: Path, settled: Settled) -> None:
    failed = replace(settled, row=1, outcome=Outcome.FAILED, choices=(), failure=Failure("E_X", "no"), prefill_s=None)
    SegmentWriter(tmp_path, 1).seal([settled, failed], [], FIGURES)
    assert [settled_from_columns(row) for row in read_rows(tmp_path)] == [settled, failed]


def test_overheads_come_back_as_they_were_sealed(seal: Seal) -> None:
    [segment] = read_segments(seal([0]))
    assert segment.overheads == [WASTE]


def test_segments_are_read_in_the_order_of_their_sealing(seal: Seal) -> None:
    seal([3], [1])
    assert [row["row"] for row in read_rows(seal([2], [0]))] == [3, 1, 2, 0]


def test_the_manifest_sums_its_rows(tmp_path: Path, settled: Settled) -> None:
    rows = [replace(settled, row=row, charge=Charge(1.0, Decimal("0.000000000001"))) for row in range(3)]
    SegmentWriter(tmp_path, 1).seal(rows, [], FIGURES)
    facts = read_segments(tmp_path)[0].facts
    # Three rows of 3 prompt and 2 output tokens, at a millionth of a millionth of a dollar each.
    assert (facts["rows"], facts["prompt_tokens"], facts["completion_tokens"]) == (3, 9, 6)
    assert Decimal(facts["usd"]) == Decimal("0.000000000003")


def test_a_segment_may_hold_overheads_alone(seal: Seal) -> None:
    assert verify_segments(seal([])) == (1, 0)


# The chain.


def test_each_manifest_holds_the_digest_of_the_one_before(seal: Seal) -> None:
    first, second, third = read_segments(seal([0], [1], [2]))
    assert first.facts["previous"] is None
    assert second.facts["previous"] == sha256_of(first.manifest)
    assert third.facts["previous"] == sha256_of(second.manifest)


def test_every_writer_has_a_chain_of_its_own(seal: Seal) -> None:
    seal([0], [1])
    *_, last = read_segments(seal([2]))
    assert (last.manifest.name, last.facts["previous"]) == ("w0002-000000.json", None)


def test_an_epoch_is_above_all_that_sealed_before(tmp_path: Path) -> None:
    assert next_epoch(tmp_path / "none") == 1
    (tmp_path / "w0041-000000.json").touch()
    assert next_epoch(tmp_path) == 42


def test_sound_segments_are_counted_with_their_rows(seal: Seal) -> None:
    assert verify_segments(seal([0, 1], [2], [3, 4, 5])) == (3, 6)


# What verify finds.


@pytest.mark.parametrize("number", [0, 2])
def test_a_flipped_byte_anywhere_in_a_table_is_found(seal: Seal, number: int) -> None:
    table = read_segments(seal([0], [1], [2]))[number].table
    sound = table.read_bytes()
    for place in range(0, len(sound), 97):
        table.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert f"{table}: sha256 is" in corruption(table.parent)


@pytest.mark.parametrize("name", ["rows", "usd", "seconds", "lane", "sealed_unix_s", "overheads", "rates"])
def test_a_changed_figure_in_a_manifest_is_found(seal: Seal, name: str) -> None:
    first, *_ = read_segments(seal([0], [1]))
    change(first.manifest, **{name: "77"})
    assert corruption(first.manifest.parent)


@pytest.mark.parametrize("name", ["rows", "usd", "prompt_tokens", "completion_tokens", "sha256", "previous"])
def test_a_changed_sum_in_the_last_manifest_is_found(seal: Seal, name: str) -> None:
    *_, last = read_segments(seal([0], [1]))
    change(last.manifest, **{name: "77"})
    assert "77" in corruption(last.manifest.parent)


def test_a_flipped_byte_anywhere_in_a_manifest_is_found(seal: Seal) -> None:
    manifest = read_segments(seal([0], [1]))[0].manifest
    sound = manifest.read_bytes()
    for place in range(len(sound)):
        manifest.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert corruption(manifest.parent)


def test_a_manifest_that_is_not_json_is_found(seal: Seal) -> None:
    manifest = read_segments(seal([0]))[0].manifest
    manifest.write_text("{")
    assert f"{manifest}: not JSON" in corruption(manifest.parent)


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_is_gone_from_the_chain_is_found(seal: Seal, number: int) -> None:
    segment = read_segments(seal([0], [1], [2]))[number]
    segment.table.unlink()
    segment.manifest.unlink()
    assert "the chain is broken" in corruption(segment.manifest.parent)


def test_a_table_that_is_gone_is_found(seal: Seal) -> None:
    segment = read_segments(seal([0, 1]))[0]
    segment.table.unlink()
    assert corruption(segment.manifest.parent) == f"{segment.table}: missing; its manifest lists 2 rows"


def test_a_segment_that_was_exchanged_is_found(seal: Seal) -> None:
    first, second = read_segments(seal([0], [1]))
    first.table.write_bytes(second.table.read_bytes())
    assert f"{first.table}: sha256 is" in corruption(first.manifest.parent)


@pytest.mark.parametrize("segments", [([0], [1, 0]), ([0, 0],)])
def test_a_row_that_was_settled_twice_is_found(seal: Seal, segments: tuple[list[int], ...]) -> None:
    assert "row 0 is settled twice" in corruption(seal(*segments))


def test_a_row_that_two_writers_settled_is_found(seal: Seal) -> None:
    seal([0])
    assert "row 0 is settled twice" in corruption(seal([0]))


# What a crash leaves behind.


def test_a_table_without_its_manifest_is_not_read(seal: Seal) -> None:
    folder = seal([0], [1])
    (folder / "w0001-000001.json").unlink()
    assert [row["row"] for row in read_rows(folder)] == [0]


def test_the_next_writer_drops_what_a_crash_left(seal: Seal) -> None:
    folder = seal([0], [1])
    (folder / "w0001-000001.json").unlink()
    (folder / ".w0001-000002.parquet.writing").touch()
    SegmentWriter(folder, next_epoch(folder))
    assert sorted(file.name for file in folder.iterdir()) == ["w0001-000000.json", "w0001-000000.parquet"]


def test_what_is_sealed_is_not_touched_by_the_next_writer(seal: Seal) -> None:
    folder = seal([0])
    before = {file: file.read_bytes() for file in folder.iterdir()}
    seal([1])
    assert {file: file.read_bytes() for file in before} == before


def test_a_table_keeps_its_checksums_page_by_page(seal: Seal) -> None:
    [segment] = read_segments(seal([0, 1]))
    assert pq.read_table(segment.table, page_checksum_verification=True).num_rows == 2
