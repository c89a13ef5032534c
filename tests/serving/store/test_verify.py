"""Verify: every hash, count and sum of a whole run, and what it was made of against its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.store.finished import is_finished
from serving.store.run import Run
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.segments import read_segments
from serving.store.verify import verify
from tests.settled import Settled, span_of


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_sound_run_is_counted(run: Run) -> None:
    # Parquet files: requests, refusals, members, routes (no pair was compared, and no answer taken); each of the four
    # stages with its manifest. Each segment is two files. Of the one writer, who it was and how it ended. The seal
    # vouches for run.json, four stages, two output files, the head of one chain and the end of its writer: 9. And
    # run.json itself. Rows: all admitted.
    assert verify(run).rows == 5
    assert verify(run).files == 4 + 4 + 2 * len(read_segments(run.segments)) + 2 + 9 + 1


def test_every_flipped_byte_of_any_file_that_counts_is_found(run: Run) -> None:
    """All of them in the places of one byte in 61: each file from its first byte to its last."""
    free = (run.lock, *run.folder.glob("logs/*"))
    for file in (file for file in run.folder.rglob("*") if file.is_file() and file not in free):
        sound = file.read_bytes()
        for place in {*range(0, len(sound), 61), len(sound) - 1} if sound else ():
            file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
            with pytest.raises(Corrupt):
                verify(run)
        file.write_bytes(sound)
    verify(run)


@pytest.mark.parametrize("pattern", ["admitted/*.parquet", "decisions/*.parquet", "segments/*.parquet"])
def test_a_flipped_byte_in_any_table_names_it(run: Run, pattern: str) -> None:
    for file in run.folder.glob(pattern):
        sound = file.read_bytes()
        flip(file)
        with pytest.raises(Corrupt, match=file.name):
            verify(run)
        file.write_bytes(sound)


def drop_last_segment(run: Run) -> None:
    last = read_segments(run.segments)[-1]
    last.table.unlink()
    last.manifest.unlink()


def test_a_finished_run_without_its_last_segment_is_found(run: Run) -> None:
    drop_last_segment(run)
    with pytest.raises(Corrupt, match=r"0001-full-\d+\.json: (sha256 is )?missing"):
        verify(run)


@pytest.mark.parametrize("name", ["overheads", "seconds", "lane", "sealed_unix_s", "rates"])
def test_a_changed_figure_in_the_last_manifest_is_found(run: Run, name: str) -> None:
    last = read_segments(run.segments)[-1].manifest
    write_sealed(last, {**read_sealed(last), name: []})  # as somebody would who can make a seal
    with pytest.raises(Corrupt, match=last.name):
        verify(run)


def unseal(run: Run) -> None:
    (run.export / "finished.json").unlink()


def settle(run: Run, settled: Settled) -> None:
    """One more row, under a writer of its own."""
    unseal(run)
    with run.writer() as writer:
        writer.chain("full").seal(span_of([settled]))


def test_a_row_that_was_settled_twice_is_found(run: Run, settled: Settled) -> None:
    settle(run, settled)  # row 0
    with pytest.raises(Corrupt, match="row 0 is settled twice"):
        verify(run)


def test_a_row_that_was_never_admitted_is_found(run: Run, settled: Settled) -> None:
    settle(run, replace(settled, row=77, answered_by=77))
    with pytest.raises(Corrupt, match="row 77 is settled, but was never admitted"):
        verify(run)


def test_a_row_that_was_answered_by_none_is_found(run: Run, settled: Settled) -> None:
    settle(run, replace(settled, row=5, answered_by=6))
    with pytest.raises(Corrupt, match="row 6 answered others, but is not settled"):
        verify(run)


def test_a_finished_run_with_an_open_row_is_found(run: Run) -> None:
    seal = run.export / "finished.json"
    facts = {name: digest for name, digest in read_sealed(seal).items() if not name.startswith("segments/")}
    write_sealed(seal, facts)
    for file in run.segments.iterdir():
        file.unlink()
    with pytest.raises(Corrupt, match="0 rows are settled, 5 were admitted"):
        verify(run)


def test_a_run_that_is_not_finished_may_have_open_rows(run: Run) -> None:
    unseal(run)
    for file in run.segments.iterdir():
        file.unlink()
    assert verify(run).rows == 0


def test_a_run_that_was_not_admitted_yet_is_sound(run: Run) -> None:
    unseal(run)
    for file in (*run.stages, *run.segments.iterdir()):
        file.unlink(missing_ok=True)
    assert not is_finished(run)
    assert verify(run).files == 1


def test_a_folder_that_was_renamed_is_found(run: Run) -> None:
    other = Run(run.folder.rename(run.folder.with_name("other")))
    with pytest.raises(Corrupt, match=f"its run.json is that of {run.run_id}; the folder was renamed"):
        verify(other)


def reprice(run: Run) -> None:
    file = run.folder / "run.json"
    file.write_text(file.read_text().replace('"usd_per_hour": "3600"', '"usd_per_hour": "1"'))


def retell(run: Run) -> None:
    file = run.folder / "run.json"
    file.write_text(file.read_text().replace('"max_tokens": 256', '"max_tokens": 255'))


def unrefuse(run: Run) -> None:
    file = run.admitted
    file.write_text(file.read_text().replace('"figures": {\n  "rows": 7', '"figures": {\n  "rows": 8'))


@pytest.mark.parametrize("change", [reprice, retell, unrefuse])
def test_a_changed_fact_of_the_run_is_found(run: Run, change: Callable[[Run], None]) -> None:
    before = [file.read_bytes() for file in (run.folder / "run.json", run.admitted)]
    change(run)
    assert before != [file.read_bytes() for file in (run.folder / "run.json", run.admitted)]
    with pytest.raises(Corrupt):
        verify(run)
