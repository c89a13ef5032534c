"""Segments: chains of manifests, each over one table; what is not as it was sealed is found and named."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.digest import sha256_of
from serving.records import Failure, Outcome, Overhead, Source, Usage
from serving.store import segments
from serving.store.durable import DISK, DiskFault
from serving.store.schemas import SEGMENT
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.segments import (
    Chain,
    Name,
    Segment,
    Span,
    durable_outcomes,
    journals,
    read_ends,
    read_rows,
    read_segments,
    verify_segments,
)
from tests.settled import Settled, span_of

WASTE = Overhead("waste", "full", 2.0, Decimal("0.5"), 7, "0001-full-001")
Settle = Callable[..., Span]


@pytest.fixture
def span(settled: Settled) -> Settle:
    """Rows of these numbers, and what an engine spent beside them."""

    def of(*rows: int, overheads: tuple[Overhead, ...] = (WASTE,), **rest: Any) -> Span:
        return span_of([replace(settled, row=row, answered_by=row) for row in rows], overheads, **rest)

    return of


@pytest.fixture
def seal(tmp_path: Path, span: Settle) -> Callable[..., Path]:
    """One segment for each list of row numbers, in one chain of a writer; returns the folder."""

    def seal_these(*rows_of_each: list[int], epoch: int = 1, name: str = "full") -> Path:
        made = chain(tmp_path, epoch, name)
        for rows in rows_of_each:
            made.seal(span(*rows))
        return tmp_path

    return seal_these


def chain(folder: Path, epoch: int = 1, name: str = "full", check: Callable[[], None] = lambda: None) -> Chain:
    return Chain(folder, epoch, name, check)


def end(folder: Path, epoch: int = 1, **chains: Segment) -> None:
    """Write where the chains of a writer ended."""
    last = {name: {"last": one.name.number, "sha256": sha256_of(one.manifest)} for name, one in chains.items()}
    write_sealed(folder / f"writer-{epoch:04}.ended.json", {"chains": last, "journals": []})


def rows_in(folder: Path) -> list[int]:
    return [row for table in read_rows(folder, ["row"]) for row in table["row"].to_pylist()]


def corruption(folder: Path) -> str:
    with pytest.raises(Corrupt) as found:
        verify_segments(folder)
    return str(found.value)


def resealed(manifest: Path, **facts: Any) -> None:
    """As somebody would who can make a seal."""
    known = {name: value for name, value in read_sealed(manifest).items() if facts.get(name, value) is not ...}
    write_sealed(manifest, known | {name: value for name, value in facts.items() if value is not ...})


Seal = Callable[..., Path]


# What is sealed.


def test_rows_come_back_as_they_were_sealed(tmp_path: Path, settled: Settled) -> None:
    failed = replace(settled, row=1, outcome=Outcome.FAILED, choices=(), failure=Failure("E_X", "no"), prefill_s=None)
    chain(tmp_path).seal(span_of([settled, failed], []))
    [table] = read_rows(tmp_path)
    assert table.to_pylist() == [{name: row.columns[name] for name in SEGMENT.names} for row in (settled, failed)]


@given(
    row=st.integers(0, 2**63 - 1),
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    tokens=st.integers(0, 2**31),
    usd=st.decimals(0, 10**9, places=12),
    seconds=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
)
def test_a_span_comes_back_from_a_journal_to_the_last_digit(
    row: int, texts: list[str], tokens: int, usd: Decimal, seconds: float | None
) -> None:
    settled = Settled(
        row, texts[0], row, Usage(tokens, tokens), 0.1, usd, source=Source.EXACT, outcome=Outcome.FAILED,
        model=texts[1], failure=Failure("E_X", texts[2]), queue_s=seconds,
    )  # fmt: skip
    span = span_of(
        [settled], [WASTE], lane="full", engine="e", seconds=0.1, rates={"decode_s_per_token": 0.1}, closes=("e",)
    )
    assert Span.from_frame(span.to_frame()) == span


def test_overheads_come_back_as_they_were_sealed(seal: Seal) -> None:
    [segment] = read_segments(seal([0]))
    assert segment.overheads == [WASTE]


def test_segments_are_read_by_writer_chain_and_number(seal: Seal) -> None:
    seal([4], [0], epoch=2)
    seal([3], [1], name="quantized")
    assert rows_in(seal([9], [8])) == [9, 8, 3, 1, 4, 0]


def test_a_segment_of_a_writer_past_the_9999th_is_read_last(seal: Seal) -> None:
    seal([1], epoch=10_000)
    assert rows_in(seal([0], epoch=9_999)) == [0, 1]


def test_the_manifest_sums_its_rows(tmp_path: Path, settled: Settled) -> None:
    ran = [replace(settled, row=row, engine_s=1.0, usd=Decimal("0.000000000001")) for row in range(3)]
    served = replace(settled, row=3, source=Source.EXACT, engine_s=0.0, usd=Decimal(0), outcome=Outcome.FAILED)
    chain(tmp_path).seal(span_of([*ran, served], []))
    facts = read_segments(tmp_path)[0].facts
    # Four rows of 3 prompt and 2 output tokens; three ran, of whose prompts 1 token each was cached, for a millionth
    # of a millionth of a dollar each.
    assert (facts["rows"], facts["prompt_tokens"], facts["completion_tokens"]) == (4, 12, 8)
    assert (facts["computed_prompt_tokens"], facts["computed_completion_tokens"]) == (6, 6)
    assert (facts["answered"], facts["failed"]) == (3, 1)
    assert Decimal(facts["usd"]) == Decimal("0.000000000003")


def test_a_segment_may_hold_overheads_alone(seal: Seal) -> None:
    folder = seal([])
    assert verify_segments(folder) == 2
    assert rows_in(folder) == []


def test_nothing_makes_no_segment(tmp_path: Path) -> None:
    chain(tmp_path).seal()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_joins_its_spans(tmp_path: Path, span: Settle) -> None:
    made = chain(tmp_path)
    made.commit(span(0, overheads=(), lane="full", engine="e", seconds=1.0, rates={"decode_s_per_token": 1.0}))
    made.commit(span(1, lane="full", engine="e", seconds=2.0, rates={"decode_s_per_token": 3.0}))
    made.seal(span(overheads=(), lane="full", engine="e", closes=("e",)))
    facts = read_segments(tmp_path)[0].facts
    assert (facts["lane"], facts["engine"], facts["seconds"], facts["closes"]) == ("full", "e", 3.0, ["e"])
    assert facts["rates"] == {"decode_s_per_token": 3.0}  # the last, which sums over all steps
    assert len(facts["overheads"]) == 1


# Commits.


def test_what_is_committed_is_durable_before_there_is_a_segment(tmp_path: Path, span: Settle) -> None:
    made = chain(tmp_path)
    made.commit(span(0, 1))
    made.commit(span(2))
    assert made.waiting_rows == 3
    assert (rows_in(tmp_path), durable_outcomes(tmp_path)) == ([], Counter(answered=3))


def test_a_segment_takes_the_place_of_its_journal(tmp_path: Path, span: Settle) -> None:
    made = chain(tmp_path)
    made.commit(span(0))
    made.seal(span(1))
    assert made.waiting_rows == 0
    assert (rows_in(tmp_path), journals(tmp_path)) == ([0, 1], [])
    assert durable_outcomes(tmp_path) == Counter(answered=2)


def test_a_row_that_is_in_a_segment_and_still_in_its_journal_counts_once(tmp_path: Path, span: Settle) -> None:
    made = chain(tmp_path)
    made.commit(span(0, 1))
    [(_, journal)] = journals(tmp_path)
    left = journal.read_bytes()
    made.seal()
    journal.write_bytes(left)  # a crash came before it was removed
    assert durable_outcomes(tmp_path) == Counter(answered=2)


def test_outcomes_are_counted_over_segments_and_journals(tmp_path: Path, settled: Settled, span: Settle) -> None:
    failed = replace(settled, row=5, outcome=Outcome.FAILED, failure=Failure("E_X", "no"))
    made = chain(tmp_path)
    made.seal(span(0, 1), span_of([failed], []))
    made.commit(span_of([replace(failed, row=6)], []))
    chain(tmp_path, name="quantized").commit(span(2))
    assert durable_outcomes(tmp_path) == Counter(answered=3, failed=2)


def test_outcomes_are_whole_while_a_journal_becomes_a_segment(
    tmp_path: Path, span: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before, sealed = chain(tmp_path), segments.read_segments, iter([True])
    made.commit(span(0, 1))

    def sealed_just_after(folder: Path) -> list[Segment]:
        found = before(folder)
        if next(sealed, False):
            made.seal()
        return found

    monkeypatch.setattr(segments, "read_segments", sealed_just_after)
    assert durable_outcomes(tmp_path) == Counter(answered=2)


def test_nothing_is_durable_where_nobody_wrote(tmp_path: Path) -> None:
    assert durable_outcomes(tmp_path / "none") == {}


def test_a_commit_that_fails_promised_nothing(tmp_path: Path, span: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chain(tmp_path)
    made.commit(span(0))

    def half(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(DISK, "write", full)
        return os.write(descriptor, data[: len(data) // 2])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DISK, "write", half)
    with pytest.raises(DiskFault):
        made.commit(span(1))
    assert made.waiting_rows == 1
    assert durable_outcomes(tmp_path) == Counter(answered=1)


# The chain.


def test_each_manifest_holds_the_digest_of_the_one_before(seal: Seal) -> None:
    first, second, third = read_segments(seal([0], [1], [2]))
    assert first.facts["previous"] is None
    assert second.facts["previous"] == sha256_of(first.manifest)
    assert third.facts["previous"] == sha256_of(second.manifest)


def test_every_writer_has_chains_of_its_own(seal: Seal) -> None:
    seal([0], [1])
    *_, last = read_segments(seal([2], epoch=2))
    assert (last.manifest.name, last.facts["previous"]) == ("0002-full-000000.json", None)


def test_chains_of_one_writer_stand_side_by_side(tmp_path: Path, span: Settle) -> None:
    full, quantized = chain(tmp_path), chain(tmp_path, name="quantized")
    full.seal(span(0))
    quantized.commit(span(1))
    full.seal(span(2))
    quantized.seal(span(3))
    names = ["0001-full-000000", "0001-full-000001", "0001-quantized-000000"]
    assert [str(segment.name) for segment in read_segments(tmp_path)] == names
    assert verify_segments(tmp_path) == 6


def test_sound_segments_ends_and_journals_are_counted(seal: Seal, span: Settle) -> None:
    folder = seal([0, 1], [2], [3, 4, 5])
    end(folder, full=read_segments(folder)[-1])
    chain(folder, 2).commit(span(6))
    assert verify_segments(folder) == 3 * 2 + 1 + 1  # a table and a manifest each, an end, a journal


def test_a_name_reads_back_from_a_file() -> None:
    assert Name.of(Path("0012-full-000345.json"), ".json") == Name(12, "full", 345)
    assert Name.of(Path("0012-full-000345.parquet"), ".json") is None
    assert Name.of(Path("writer-0012.json"), ".json") is None


# A writer that has ended.


def test_what_a_writer_seals_after_its_end_does_not_count(seal: Seal, span: Settle) -> None:
    made = chain(seal([0], name="other"), 1)
    made.seal(span(1))
    end(seal(), full=read_segments(seal())[0])
    made.seal(span(2))  # in a chain that was known
    seal([3], name="late")  # in one that was not
    assert rows_in(seal()) == [1]
    assert sorted(read_ends(seal())) == [1]


def test_a_journal_that_a_writer_began_after_its_end_does_not_count(seal: Seal, span: Settle) -> None:
    folder = seal([0])
    end(folder, full=read_segments(folder)[-1])
    late = chain(folder, name="late")
    late.commit(span(1))
    assert durable_outcomes(folder) == Counter(answered=1)


def test_a_last_segment_that_is_gone_is_named_by_the_end_of_its_writer(seal: Seal) -> None:
    folder = seal([0], [1])
    last = read_segments(folder)[-1]
    end(folder, full=last)
    sha256 = sha256_of(last.manifest)
    last.manifest.unlink()
    said = f"{last.manifest}: missing; the end of writer 1 lists it with sha256 {sha256}"
    assert corruption(folder) == said


def test_a_whole_chain_that_is_gone_is_named_by_the_end_of_its_writer(seal: Seal) -> None:
    folder = seal([0])
    [only] = read_segments(folder)
    end(folder, full=only)
    only.manifest.unlink()
    assert f"{only.manifest}: missing; the end of writer 1" in corruption(folder)


def test_a_last_segment_that_was_sealed_anew_is_found_by_the_end_of_its_writer(seal: Seal) -> None:
    folder = seal([0])
    [only] = read_segments(folder)
    end(folder, full=only)
    resealed(only.manifest, lane="quantized")
    assert f"{only.manifest}: sha256 is {sha256_of(only.manifest)}, the end of writer 1 says" in corruption(folder)


# What verify finds.


@pytest.mark.parametrize("number", [0, 2])
def test_a_flipped_bit_anywhere_in_a_table_is_found(seal: Seal, number: int) -> None:
    table = read_segments(seal([0], [1], [2]))[number].table
    sound = table.read_bytes()
    for place in range(0, len(sound), 97):
        table.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert f"{table}: bytes 0 to {len(sound) - 1} differ" in corruption(table.parent)


@pytest.mark.parametrize("number", [0, 1])
def test_a_flipped_bit_anywhere_in_a_manifest_is_found(seal: Seal, number: int) -> None:
    manifest = read_segments(seal([0], [1]))[number].manifest
    sound = manifest.read_bytes()
    for place in range(len(sound)):
        manifest.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert str(manifest) in corruption(manifest.parent)


@pytest.mark.parametrize("name", ["rows", "usd", "seconds", "lane", "sealed_unix_s", "overheads", "rates"])
def test_a_manifest_that_was_sealed_anew_breaks_the_chain(seal: Seal, name: str) -> None:
    first, *_ = read_segments(seal([0], [1]))
    resealed(first.manifest, **{name: "77"})
    assert corruption(first.manifest.parent)


SUMS = ["rows", "answered", "failed", "usd", "prompt_tokens", "completion_tokens", "computed_prompt_tokens",
        "computed_completion_tokens", "sha256", "previous"]  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_that_is_not_the_rows_is_found_even_under_a_seal(seal: Seal, name: str) -> None:
    *_, last = read_segments(seal([0], [1]))
    resealed(last.manifest, **{name: "77"})
    assert "77" in corruption(last.manifest.parent)


@pytest.mark.parametrize("name", ["rows", "recovers", "closes"])
def test_a_sealed_file_that_is_no_segments_manifest_is_found(seal: Seal, name: str) -> None:
    [only] = read_segments(seal([0]))
    resealed(only.manifest, **{name: ...})
    assert corruption(only.manifest.parent) == f"{only.manifest}: not a segment's manifest; it lacks {name}"


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_is_gone_from_a_chain_is_named(seal: Seal, number: int) -> None:
    found = read_segments(seal([0], [1], [2]))
    found[number].manifest.unlink()
    said = f"{found[number].manifest}: missing; {found[number + 1].manifest} follows it"
    assert corruption(found[0].manifest.parent) == said


def test_a_table_that_is_gone_is_named(seal: Seal) -> None:
    segment = read_segments(seal([0, 1]))[0]
    segment.table.unlink()
    assert f"{segment.table}: missing; its manifest lists it with" in corruption(segment.manifest.parent)


def test_a_table_that_was_exchanged_is_named(seal: Seal) -> None:
    first, second = read_segments(seal([0], [1, 2]))
    first.table.write_bytes(second.table.read_bytes())
    assert f"{first.table}: " in corruption(first.manifest.parent)


def test_a_segment_that_was_exchanged_whole_breaks_the_chain(seal: Seal) -> None:
    first, second, third = read_segments(seal([0], [1], [2]))
    for ours, others in ((second.table, third.table), (second.manifest, third.manifest)):
        ours.write_bytes(others.read_bytes())
    assert f"{second.manifest}: the chain is broken: it follows" in corruption(first.manifest.parent)


def test_a_journal_with_a_flipped_bit_is_found(tmp_path: Path, span: Settle) -> None:
    chain(tmp_path).commit(span(0))
    [(_, journal)] = journals(tmp_path)
    content = bytearray(journal.read_bytes())
    content[30] ^= 1
    journal.write_bytes(content)
    assert f"{journal}: frame 0 at byte 0" in corruption(tmp_path)


# What a crash leaves behind.


def test_a_table_without_its_manifest_is_not_read(seal: Seal) -> None:
    folder = seal([0], [1])
    (folder / "0001-full-000001.json").unlink()
    assert rows_in(folder) == [0]


def test_columns_are_read_alone_if_asked(seal: Seal) -> None:
    [table] = read_rows(seal([0]), ["row", "usd"])
    assert table.schema.names == ["row", "usd"]
    assert isinstance(table, pa.Table)
