"""Run folders: named by content, held by one writer at a time, found by name."""

import fcntl
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.store import run as run_module
from serving.store.durable import DISK
from serving.store.run import FACTS, FORMAT, Run, RunHeld, UnknownRun, create, find_run, make_run_id
from serving.store.sealed import Corrupt, write_sealed
from serving.store.segments import read_ends
from serving.store.writer import Superseded, last_epoch

HOLD = """
import sys
from pathlib import Path
from serving.store.run import Run
with Run(Path(sys.argv[1])).writer():
    print("held", flush=True)
    sys.stdin.read()
"""


def made(folder: Path) -> Run:
    run = Run(folder)
    with run.writer():
        create(run, {name: {} for name in FACTS} | {"format": FORMAT})
    return run


@pytest.fixture
def new(tmp_path: Path) -> Run:
    return made(tmp_path / "runs" / "some-run")


@contextmanager
def held_by_another_process(run: Run) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", HOLD, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


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
    create(new, {"fingerprint": {"other": 1}})
    assert (new.folder / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("found", "way_out"),
    [(99, "upgrade gristmill"), (1, "run its job again into another --runs"), ("x", "upgrade gristmill")],
)
def test_a_run_of_another_format_is_not_read_and_the_way_out_is_said(new: Run, found: object, way_out: str) -> None:
    write_sealed(new.folder / "run.json", {"format": found})
    with pytest.raises(Corrupt, match=rf"run\.json: format {found}, this gristmill reads {FORMAT}; {way_out}$"):
        _ = new.facts


@pytest.mark.parametrize("name", [name for name in FACTS if name != "format"])
def test_a_run_without_a_fact_that_it_must_have_is_not_read(new: Run, name: str) -> None:
    write_sealed(new.folder / "run.json", {known: {} for known in FACTS if known != name} | {"format": FORMAT})
    with pytest.raises(Corrupt, match=rf"run\.json: not a run\.json; it lacks {name}"):
        _ = new.facts


@pytest.mark.parametrize("content", ["{", '{"format": 2}', ""])
def test_facts_that_are_not_sealed_are_corrupt(new: Run, content: str) -> None:
    (new.folder / "run.json").write_text(content)
    with pytest.raises(Corrupt, match=r"run\.json: \d+ bytes that do not end in a seal"):
        _ = new.facts


def test_a_stage_that_has_not_completed_says_how_to_go_on(new: Run) -> None:
    with pytest.raises(Corrupt, match="this stage has not completed; run the job again to resume it"):
        new.stage(new.admitted)


# One writer.


def test_a_second_writer_is_told_who_holds_the_run(new: Run) -> None:
    with held_by_another_process(new) as holder, pytest.raises(RunHeld) as refused, new.writer():
        pass
    who = rf"process {holder.pid} on {platform.node()} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    words = rf"run some-run is being written by {who}; wait for it or stop it, or if that cannot be, add --take-over"
    assert re.fullmatch(words, str(refused.value))


def test_a_holder_that_has_not_said_who_it_is_yet_holds_the_run_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    descriptor = run_module._open_lock(run.lock, take_over=False)
    assert run_module._lock(descriptor)
    with pytest.raises(RunHeld, match="is being written by another process; wait"), run.writer():
        pass
    os.close(descriptor)


def test_a_run_whose_lock_was_put_elsewhere_meanwhile_is_not_taken(new: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(path: Path, flags: int, mode: int) -> int:
        descriptor = os.open(path, flags, mode)
        path.unlink()
        return descriptor

    monkeypatch.setattr(DISK, "open", moved)
    with pytest.raises(RunHeld), new.writer():
        pass
    assert last_epoch(new.segments) == 1


def test_a_reader_that_looks_for_an_instant_does_not_keep_a_writer_out(
    new: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new.lock.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        monkeypatch.setattr("serving.store.run.time.sleep", lambda seconds: reader.close())
        with new.writer() as writer:
            assert writer.epoch == 2


# Taking over.


def test_a_run_can_be_taken_from_a_holder_that_hangs(new: Run) -> None:
    with held_by_another_process(new) as holder:
        with new.writer(take_over=True) as writer:
            assert writer.epoch == 3
            assert holder.poll() is None
        assert not new.is_held()


def test_a_holder_whose_run_was_taken_finds_out_at_its_next_step(new: Run) -> None:
    def hold() -> None:
        with new.writer() as stale:
            with new.writer(take_over=True):
                pass
            stale.check()

    with pytest.raises(Superseded):
        hold()


def test_a_run_that_was_taken_over_is_held_by_who_took_it(new: Run) -> None:
    with held_by_another_process(new), new.writer(take_over=True):
        with pytest.raises(RunHeld, match=f"process {os.getpid()} on"), new.writer():
            pass
        assert new.is_held()


def test_two_that_take_a_run_over_at_once_do_not_both_get_it(new: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, pending = DISK.rename, [True]

    def overtaken(source: Path, target: Path) -> None:
        rename(source, target)
        if target == new.lock and pending:
            pending.pop()
            with new.writer(take_over=True):
                pass

    monkeypatch.setattr(DISK, "rename", overtaken)
    with pytest.raises(RunHeld), new.writer(take_over=True):
        pass
    assert last_epoch(new.segments) == 2


# Ends


def test_a_run_is_held_until_its_writer_is_killed(new: Run) -> None:
    with held_by_another_process(new) as holder:
        assert new.is_held()
        holder.kill()
        holder.wait()
        assert not new.is_held()


def test_a_run_that_nobody_writes_is_not_held(new: Run, tmp_path: Path) -> None:
    assert not new.is_held()
    assert not Run(tmp_path / "never written").is_held()


def test_the_run_is_free_again_after_its_writer(new: Run) -> None:
    for _ in range(2):
        with new.writer():
            assert new.is_held()
    assert not new.is_held()


def test_a_writer_that_leaves_in_good_order_says_that_it_has_ended(new: Run) -> None:
    with new.writer():
        assert 2 not in read_ends(new.segments)
    assert 2 in read_ends(new.segments)


def test_a_writer_that_is_broken_off_has_not_ended_until_the_next_finds_out(new: Run) -> None:
    with pytest.raises(SystemExit), new.writer():
        raise SystemExit
    assert 2 not in read_ends(new.segments)
    assert not new.is_held()
    with new.writer():
        assert 2 in read_ends(new.segments)


def test_what_a_writer_notes_is_kept_with_who_it_is(new: Run) -> None:
    with new.writer(notes={"stated_price": "1"}):
        pass
    assert '"stated_price": "1"' in (new.segments / "writer-0002.json").read_text()


# Finding.


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number, name in enumerate(["news-aaa", "news-abb", "mail-ccc"]):
        run = made(tmp_path / "runs" / name)
        os.utime(run.lock, (1000 + number,) * 2)
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
    made(three / "news")
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
