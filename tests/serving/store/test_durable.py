"""Durable writes: what has a name is complete, and whatever the disk does wrong is said, or ends the process."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.digest import sha256_of
from serving.store.durable import (
    DISK,
    WRITING,
    Appender,
    DiskFault,
    drop_unfinished,
    make_folder,
    remove,
    sync_folder,
    write_blocks,
    write_bytes,
)

FAULTS = {errno.EIO: "Input/output error", errno.ENOSPC: "No space left", errno.EMFILE: "Too many open files"}
AFTER_A_FAILED_FSYNC = """
import os, sys
from pathlib import Path
from serving.store.durable import DISK, Appender, make_folder, write_bytes
folder, what = Path(sys.argv[1]), sys.argv[2]
calls = {"write": lambda: write_bytes(folder / "a", b"new"), "append": lambda: journal.append(b"new"),
         "make": lambda: make_folder(folder / "new")}
journal = Appender(folder / "journal")
def fail(descriptor):
    for name in ("open", "write", "rename", "remove", "make_folder"):
        setattr(DISK, name, lambda *_: os.write(1, b"written after a failed fsync"))
    raise OSError(5, "Input/output error")
DISK.fsync = fail
try:
    calls[what]()
finally:
    os.write(1, b"a handler ran")
"""


def fail_with(monkeypatch: pytest.MonkeyPatch, call: str, number: int, times: int = 99) -> None:
    """Let a system call fail the next so many times."""
    before, left = getattr(DISK, call), iter(range(times))

    def failing(*arguments: Any) -> Any:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return before(*arguments)

    monkeypatch.setattr(DISK, call, failing)


# What is written.


@given(blocks=st.lists(st.binary(max_size=100), max_size=10))
def test_the_blocks_are_written_one_after_another(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "blocks"
    digest = write_blocks(file, blocks)
    assert file.read_bytes() == b"".join(blocks)
    assert digest == sha256_of(file) == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"


def test_what_is_appended_stands_in_its_order(tmp_path: Path) -> None:
    file = Appender(tmp_path / "a")
    for data in (b"one", b"", b"two"):
        file.append(data)
    file.close()
    assert (tmp_path / "a").read_bytes() == b"onetwo"


def test_only_the_owner_can_read_what_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"secret")
    make_folder(tmp_path / "b" / "c")
    Appender(tmp_path / "d").close()
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "b/c", "d")]
    assert modes == [0o600, 0o700, 0o700, 0o600]


def test_a_folder_may_be_there_already(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert tmp_path.is_dir()


def test_a_folder_that_another_process_makes_first_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beaten(path: Path, mode: int) -> None:
        path.mkdir()
        raise FileExistsError

    monkeypatch.setattr(DISK, "make_folder", beaten)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_that_grows_is_never_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"another's")
    with pytest.raises(DiskFault, match="File exists"):
        Appender(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"another's"


@pytest.mark.parametrize("write", [lambda file: write_bytes(file, b"new"), Appender], ids=["a file", "a journal"])
def test_a_link_laid_in_the_way_is_not_followed(tmp_path: Path, write: Callable[[Path], object]) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"whole")
    for name in ("a", f".a.{os.getpid()}{WRITING}"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(DiskFault):
        write(tmp_path / "a")
    assert victim.read_bytes() == b"whole"


def test_what_is_unfinished_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    for name in (f".a.1{WRITING}", f"a{WRITING}", "a", ".a"):
        (tmp_path / name).touch()
    drop_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a", "a", f"a{WRITING}"]


def test_what_is_gone_already_may_be_removed(tmp_path: Path) -> None:
    remove(tmp_path / "never there")


# A disk that does less than it was asked.


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DISK, "write", lambda descriptor, data: os.write(descriptor, data[: max(1, len(data) // 2)]))
    write_bytes(tmp_path / "a", b"all of it")
    Appender(tmp_path / "b").append(b"all of it")
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"all of it"] * 2


def test_a_write_that_the_disk_lost_is_seen_by_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(DISK, "write", lambda descriptor, data: len(data))
    with pytest.raises(DiskFault, match="gave back other bytes than were written"):
        write_bytes(tmp_path / "a", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"old")]


def test_an_append_that_the_disk_lost_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Appender(tmp_path / "a")
    file.append(b"one")
    monkeypatch.setattr(DISK, "write", lambda descriptor, data: len(data))
    with pytest.raises(DiskFault, match="3 bytes, but 6 were written"):
        file.append(b"two")


# A disk that says no.


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_a_write_that_fails_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    write_bytes(tmp_path / "a", b"whole")
    fail_with(monkeypatch, call, number)
    with pytest.raises(DiskFault, match=FAULTS[number]) as fault:
        write_bytes(tmp_path / "a", b"new")
    assert fault.value.errno == number
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"whole")]


def broken_off() -> Iterator[bytes]:
    yield b"half"
    raise ValueError("the source broke off")


def test_blocks_that_break_off_make_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the source broke off"):
        write_blocks(tmp_path / "a", broken_off())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "write"), [("open", Appender), ("make_folder", make_folder)])
def test_what_cannot_be_made_is_a_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, write: Callable[[Path], object]
) -> None:
    fail_with(monkeypatch, call, errno.EROFS)
    with pytest.raises(DiskFault, match="Read-only file system; mend that, then run the same command again"):
        write(tmp_path / "a")


def test_an_append_that_fails_is_a_fault_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Appender(tmp_path / "a")
    fail_with(monkeypatch, "write", errno.EIO)
    with pytest.raises(DiskFault, match="Input/output error"):
        file.append(b"one")


def test_a_file_that_cannot_be_removed_is_a_fault_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, "remove", errno.EACCES)
    with pytest.raises(DiskFault, match="Permission denied"):
        remove(tmp_path / "a")


def test_a_folder_that_cannot_be_opened_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFault, match="No such file or directory"):
        sync_folder(tmp_path / "none")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_it_needs_and_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_with(monkeypatch, "write", number)
    words = r"needs 2\.0 MiB, has \d+\.\d MiB; free some, then run the same command again\. What was settled before is"
    with pytest.raises(DiskFault, match=words):
        write_bytes(tmp_path / "a", bytes(2 * 2**20))


def test_what_cannot_be_cleared_away_does_not_hide_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, "write", errno.ENOSPC)
    fail_with(monkeypatch, "remove", errno.EIO)
    with pytest.raises(DiskFault, match="No space left"):
        write_bytes(tmp_path / "a", b"new")


# A failed fsync.


@pytest.mark.parametrize("what", ["write", "append", "make"])
def test_a_failed_fsync_ends_the_process_and_nothing_is_written_after_it(tmp_path: Path, what: str) -> None:
    (tmp_path / "a").write_bytes(b"whole")
    command = [sys.executable, "-c", AFTER_A_FAILED_FSYNC, str(tmp_path), what]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert "fsync failed (Input/output error), so what is on the disk is not known" in done.stderr
    assert "run the same command again" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_the_end_after_a_failed_fsync_is_at_once_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ended(code: int) -> None:
        raise KeyboardInterrupt(code)  # in the place of the end

    monkeypatch.setattr(os, "_exit", ended)
    fail_with(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(KeyboardInterrupt, match="5"):
        write_bytes(tmp_path / "a", b"new")
    assert capfd.readouterr().err.startswith(f"gristmill: {tmp_path}/.a.")
    assert not (tmp_path / "a").exists()
