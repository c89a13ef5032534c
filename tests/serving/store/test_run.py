"""Run folders: named by content, held by one writer at a time, found by name."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.store.parts import Corrupt
from serving.store.run import Run, RunHeld, UnknownRun, create_or_open, find_run, make_run_id

FIGURES = {"lane": None, "seconds": 0.0, "rates": None, "sealed_unix_s": 0.0}
HOLD = """
import sys
from pathlib import Path
from serving.store.run import Run
with Run(Path(sys.argv[1])).writer():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def new(tmp_path: Path) -> Run:
    return create_or_open(tmp_path / "runs", "some-run", {"fingerprint": {}})


@contextmanager
def held_by_another_process(run: Run) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", HOLD, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def killed(run: Run, worked_s: float) -> float:
    """Leave the run as a writer does that is killed after so many seconds; returns when it began."""
    with pytest.raises(SystemExit), run.writer():
        raise SystemExit
    since = json.loads((run.folder / "lock").read_text())["since_unix_s"]
    os.utime(run.folder / "lock", (since + worked_s,) * 2)
    return float(since)


# Names.


def test_a_run_is_named_by_its_dataset_and_its_content() -> None:
    # sha256 of the canonical JSON '{"a":1}' begins with 015abd7f5cc5.
    assert make_run_id("data/My prompts.v2.jsonl", {"a": 1}) == "My-prompts-015abd7f5cc5"


def test_the_order_of_a_fingerprint_does_not_change_the_name() -> None:
    assert make_run_id("x.csv", {"a": 1, "b": 2}) == make_run_id("x.csv", {"b": 2, "a": 1})


def test_another_fingerprint_is_another_run() -> None:
    assert make_run_id("x.csv", {"a": 1}) != make_run_id("x.csv", {"a": 2})


@pytest.mark.parametrize(
    ("dataset", "readable"),
    [("*.jsonl", "run"), ("../../etc.csv", "etc"), (".csv", "run"), ("a b/c d.csv", "c-d"), ("x" * 99, "x" * 40)],
)
def test_a_name_is_a_plain_folder_name(dataset: str, readable: str) -> None:
    assert re.fullmatch(rf"{readable}-[0-9a-f]{{12}}", make_run_id(dataset, {}))


def test_an_old_run_keeps_the_facts_it_has(new: Run) -> None:
    before = (new.folder / "run.json").read_bytes()
    create_or_open(new.folder.parent, new.run_id, {"fingerprint": {"other": 1}})
    assert (new.folder / "run.json").read_bytes() == before


def test_a_run_of_a_later_format_is_not_read(new: Run) -> None:
    (new.folder / "run.json").write_text('{"format": 99}')
    with pytest.raises(Corrupt, match=r"run\.json: format 99, this gristmill reads up to \d+; upgrade it"):
        _ = new.facts


def test_facts_that_are_not_json_are_corrupt(new: Run) -> None:
    (new.folder / "run.json").write_text("{")
    with pytest.raises(Corrupt, match=r"run\.json: not JSON"):
        _ = new.facts


def test_a_stage_that_has_not_completed_says_how_to_go_on(new: Run) -> None:
    with pytest.raises(Corrupt, match="this stage has not completed; run the job again to resume it"):
        new.stage(new.admitted)


# One writer.


def test_a_second_writer_is_told_who_holds_the_run(new: Run) -> None:
    with held_by_another_process(new) as holder, pytest.raises(RunHeld) as refused, new.writer():
        pass
    words = rf"run some-run is being written by process {holder.pid} on .+ since \d\d:\d\d:\d\d; wait for it or stop it"
    assert re.fullmatch(words, str(refused.value))


def test_a_run_is_held_until_its_writer_is_killed(new: Run) -> None:
    with held_by_another_process(new) as holder:
        assert new.is_held()
        holder.kill()
        holder.wait()
        assert not new.is_held()


def test_a_run_that_nobody_ever_wrote_is_not_held(new: Run) -> None:
    assert not new.is_held()


def test_the_run_is_free_again_after_its_writer(new: Run) -> None:
    for _ in range(2):
        with new.writer():
            assert new.is_held()
    assert not new.is_held()


def test_each_writer_that_seals_has_an_epoch_of_its_own(new: Run) -> None:
    epochs = []
    for _ in range(3):
        with new.writer() as writer:
            writer.seal([], [], FIGURES)
            epochs.append(writer.epoch)
    assert epochs == [1, 2, 3]


# What a crash threw away.


def test_nothing_is_lost_after_an_end_in_good_order(new: Run) -> None:
    with new.writer():
        pass
    os.utime(new.folder / "lock", (time.time() + 99,) * 2)
    with new.writer() as writer:
        assert writer.lost_s == 0


def test_a_killed_writer_lost_what_it_did_since_it_began(new: Run) -> None:
    killed(new, worked_s=5)
    with new.writer() as writer:
        assert writer.lost_s == pytest.approx(5)


def test_a_killed_writer_lost_only_what_came_after_its_last_seal(new: Run) -> None:
    with new.writer() as writer:
        writer.seal([], [], FIGURES)
    killed(new, worked_s=0)
    [sealed] = new.segments.glob("*.json")
    since = json.loads((new.folder / "lock").read_text())["since_unix_s"]
    os.utime(sealed, (since + 3,) * 2)
    os.utime(new.folder / "lock", (since + 5,) * 2)
    with new.writer() as writer:
        assert writer.lost_s == pytest.approx(2)


def test_a_beat_moves_what_a_crash_would_lose(new: Run) -> None:
    killed(new, worked_s=-50)
    before = new.last_beat_unix_s()
    assert before is not None
    new.beat()
    assert (new.last_beat_unix_s() or 0) >= before + 49


# Finding.


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number, name in enumerate(["news-aaa", "news-abb", "mail-ccc"]):
        run = create_or_open(tmp_path / "runs", name, {})
        with run.writer():
            pass
        os.utime(run.folder / "lock", (1000 + number,) * 2)
    os.utime(tmp_path / "runs" / "news-aaa" / "lock", (2000, 2000))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "found"), [("news-abb", "news-abb"), ("mail", "mail-ccc"), ("news-aa", "news-aaa"), ("latest", "news-aaa")]
)
def test_a_run_is_found_by_its_name_or_the_start_of_it(three: Path, name: str, found: str) -> None:
    assert find_run(three, name).run_id == found


def test_a_run_is_found_by_its_folder(three: Path) -> None:
    assert find_run(Path("elsewhere"), str(three / "mail-ccc")).run_id == "mail-ccc"


def test_a_whole_name_is_found_though_another_starts_with_it(three: Path) -> None:
    create_or_open(three, "news", {})
    assert find_run(three, "news").run_id == "news"


def test_a_start_that_fits_several_lists_them(three: Path) -> None:
    with pytest.raises(UnknownRun, match=r"several runs start with 'news' in .*/; there: news-aaa, news-abb$"):
        find_run(three, "news")


def test_an_unknown_run_lists_those_there_are(three: Path) -> None:
    with pytest.raises(UnknownRun, match=r"no run starts with 'x' in .*/; there: mail-ccc, news-aaa, news-abb$"):
        find_run(three, "x")


@pytest.mark.parametrize("name", ["latest", "x"])
def test_where_there_is_no_run_that_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownRun, match=r"no run in .*/runs/ yet; `gristmill run JOB\.toml` makes one"):
        find_run(tmp_path / "runs", name)


def test_a_run_found_from_within_its_own_folder_has_its_name(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(three / "mail-ccc")
    assert find_run(three, ".").run_id == "mail-ccc"
