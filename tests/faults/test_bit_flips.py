"""One bit of a run's files is another: it is always seen, and whoever asks for a figure gets none."""

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.answer import answer
from flows.cli import main
from flows.costs import costs
from flows.progress import Silent
from serving.config import load_job
from serving.engines.echo import EchoEngine
from serving.records import Completion, Request
from serving.store.run import Run, all_runs
from serving.store.sealed import Corrupt
from serving.store.verify import verify

pytestmark = pytest.mark.faults
FLIPS = int(os.environ.get("GRISTMILL_FLIPS", "1000"))
COMMANDS = 25  # that many are tried on the commands as well
ROWS, ANSWERED = 120, 97
JOB = """
[dataset]
path = "in.jsonl"
[model]
full = "echo"
[engine]
kind = "echo"
[price]
usd_per_hour = 3600
"""


class Killed(EchoEngine):
    """Takes its whole process along after some answers."""

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        for number, request in enumerate(requests):
            if number == ANSWERED:
                os._exit(9)
            yield self._answer(request)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was killed with several segments sealed and a journal left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    rows = (
        {"custom_id": f"id-{n}", "body": {"messages": [{"role": "user", "content": f"say {n}"}]}} for n in range(ROWS)
    )
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if (child := os.fork()) == 0:
        monkeypatch.setattr("flows.lane.open_engine", lambda *_: Killed())
        monkeypatch.setattr("flows.settlement.COMMIT_ROWS", 7)
        monkeypatch.setattr("flows.settlement.SEAL_ROWS", 21)
        answer(load_job(Path("job.toml")), Path("runs"), Silent())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    [run] = all_runs(Path("runs"))
    kinds = Counter(file.suffix for file in run.segments.iterdir())
    assert kinds[".parquet"] >= 4
    assert kinds[".journal"] == 1
    verify(run)
    return run


def test_every_flipped_bit_is_seen(killed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    files = [file for file in sorted(killed.folder.rglob("*")) if file.suffix in {".parquet", ".json", ".journal"}]
    places = [(file, bit) for file in files for bit in range(8 * file.stat().st_size)]
    chosen = random.Random(6).sample(places, min(FLIPS, len(places)))
    seen: Counter[str] = Counter()
    missed = []
    for number, (file, bit) in enumerate(chosen):
        before = file.read_bytes()
        file.write_bytes(flipped(before, bit))
        try:
            if not is_named(killed, file):
                missed.append((file.name, bit))
            if number < COMMANDS:
                no_command_gives_a_figure(file, capsys)
        finally:
            file.write_bytes(before)
        seen[file.suffix] += 1
    verify(killed)
    how = ", ".join(f"{count} in {kind}" for kind, count in sorted(seen.items()))
    with capsys.disabled():
        print(f"\nbit flips: {len(chosen)} ({how}), {len(missed)} missed, {time.monotonic() - began:.0f} s")
    assert missed == []


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def is_named(run: Run, file: Path) -> bool:
    try:
        verify(run)
    except Corrupt as fault:
        return file.name in str(fault)
    return False


def no_command_gives_a_figure(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a copy: a run that is resumed changes its files before it comes to the one that is damaged."""
    copy = shutil.copytree("runs", "copy")
    if file.suffix != ".journal":  # no view reads it
        with pytest.raises(Corrupt, match=file.name):
            costs(Path(copy), "by-run", None, "table")
    for command in (["verify"], ["run", "job.toml", "--quiet"]):
        assert main(["--runs", copy, *command]) == 4, f"{command} with a bit of {file} flipped"
        said = capsys.readouterr()
        assert said.out == ""
        assert file.name in said.err
    shutil.rmtree(copy)


def test_a_journal_that_is_cut_off_anywhere_in_its_last_frame_gives_what_came_before(killed: Run) -> None:
    [journal] = killed.segments.glob("*.journal")
    whole = journal.read_bytes()
    last = whole.rindex(b"GMJ2")
    for end in range(last, len(whole)):
        journal.write_bytes(whole[:end])
        assert verify(killed).rows > 0
    journal.write_bytes(whole)
