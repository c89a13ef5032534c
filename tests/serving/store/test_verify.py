"""Verify: every hash, count and sum of a whole run, and what it was made of against its name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.store.parts import Corrupt
from serving.store.run import Run
from serving.store.segments import read_segments
from serving.store.verify import verify


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_sound_run_is_counted(run: Run) -> None:
    # Parquet files: requests, refusals, members, routes (no pair was compared). Each segment is two files.
    # The seal vouches for run.json, three stages, two output files and the head of one chain: 7. Rows: all admitted.
    assert verify(run).rows == 5
    assert verify(run).files == 4 + 2 * len(read_segments(run.segments)) + 7


@pytest.mark.parametrize("pattern", ["admitted/*.parquet", "decisions/*.parquet", "segments/*.parquet"])
def test_a_flipped_byte_in_any_table_is_found(run: Run, pattern: str) -> None:
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
    with pytest.raises(Corrupt, match="sha256 is missing"):
        verify(run)


@pytest.mark.parametrize("name", ["overheads", "seconds", "lane", "sealed_unix_s", "rates"])
def test_a_changed_figure_in_the_last_manifest_is_found(run: Run, name: str) -> None:
    last = read_segments(run.segments)[-1].manifest
    last.write_text(json.dumps({**json.loads(last.read_text()), name: None}))
    with pytest.raises(Corrupt, match=last.name):
        verify(run)


def test_a_row_that_was_never_admitted_is_found(run: Run) -> None:
    (run.export / "finished.json").unlink()
    for file in run.folder.glob("admitted/admit-requests-*"):
        file.unlink()
    manifest = json.loads(run.admitted.read_text())
    manifest["parts"] = [part for part in manifest["parts"] if part["table"] != "requests"]
    run.admitted.write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match="5 rows are settled, 0 were admitted"):
        verify(run)


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
