"""What safety costs: little beside the engine, and little when a run that is done is asked for again."""

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

from serving.records import Choice, Usage
from serving.store.run import Run
from tests.cli.command import Place, row
from tests.settled import Settled, span_of

pytestmark = pytest.mark.faults
ROWS_PER_S = 50  # of a small engine on a CPU; a faster one commits 256 rows at once
SPANS = 120  # seconds of its work
MOST_SHARE = 0.01
FINISHED_ROWS, MOST_RESUME_S = 100_000, 2.0
SLACK = 3  # a machine that is busy with others takes longer, and its disk too


def settled(number: int) -> Settled:
    text = f"an answer of some length, as number {number} is, so that what is written weighs what it weighs in earnest"
    return Settled(number, f"id-{number}", number, Usage(60, 24, 0), 0.02, Decimal("0.000001"), (Choice(text, "stop"),))


def test_durability_takes_less_than_a_hundredth_of_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two minutes of an engine that finishes 50 rows a second, committed every second and sealed every 30."""
    spans = [
        span_of(
            [settled(second * ROWS_PER_S + n) for n in range(ROWS_PER_S)], [], lane="full", engine="one", seconds=1.0
        )
        for second in range(SPANS)
    ]
    took_s = []
    with Run(tmp_path / "run").writer() as writer:
        chain = writer.chain("full")
        for number, span in enumerate(spans, start=1):
            began = time.perf_counter()
            chain.commit(span)
            if number % 30 == 0:
                chain.seal()
            took_s.append(time.perf_counter() - began)
    share = sum(took_s) / SPANS
    with capsys.disabled():
        median_ms, worst_ms = sorted(took_s)[SPANS // 2] * 1000, max(took_s) * 1000
        print(
            f"\ndurability: {share:.2%} of wall at {ROWS_PER_S} rows/s; {median_ms:.1f} ms median, {worst_ms:.1f} worst"
        )
    assert share < MOST_SHARE * SLACK


def test_a_finished_run_of_100_000_rows_is_answered_in_two_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    place.job()
    place.prompts([row(f"id-{n}", f"prompt {n}") for n in range(FINISHED_ROWS)])
    began = time.monotonic()
    assert place.gristmill("run", "job.toml", "--quiet", limit_s=400).code == 0
    first_s = time.monotonic() - began
    files = {file: file.stat().st_mtime_ns for file in place.folder.rglob("*") if file.is_file()}
    again_s = min(_started(place) for _ in range(3))
    with capsys.disabled():
        print(f"\nresume: {FINISHED_ROWS} finished rows in {again_s:.2f} s (the run itself: {first_s:.0f} s)")
    assert files == {file: file.stat().st_mtime_ns for file in place.folder.rglob("*") if file.is_file()}
    assert json.loads((place.only_run / "export" / "finished.json").read_text())
    assert again_s < MOST_RESUME_S * SLACK


def _started(place: Place) -> float:
    """Seconds of the command from its start, imports included."""
    began = time.monotonic()
    process = place.start("--quiet")
    process.communicate(timeout=60)
    assert process.returncode == 0
    return time.monotonic() - began
