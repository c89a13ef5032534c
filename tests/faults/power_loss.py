"""What a power failure can leave of a run: every legal state after every system call of a recorded workload.

The model is weaker than any real file system that is in use. What was written and not synced may be gone, cut off at
any byte, or zeros in its place; a name that was made, changed or removed may be there or not until its folder is
synced, each independently of the others (after ALICE, OSDI'14). Nothing else may happen: what was synced stays.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.store import durable

MOST_NAMES, MOST_FILES = 6, 1
PIECES = 256  # a torn write is cut at so many places; one of fewer bytes at every byte


@dataclass(frozen=True, slots=True)
class Op:
    """One system call. `file` numbers files in the order of their making; a file keeps its number when renamed."""

    call: str  # create | write | sync | rename | link | remove | make_folder | sync_folder
    path: str = ""
    other: str = ""  # the new name of a rename or a link
    file: int = -1
    data: bytes = b""


class RecordingDisk(durable.Disk):
    """The real disk, which notes every call that changes something below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops: list[Op] = []
        self._files: dict[str, int] = {}
        self._opened: dict[int, str] = {}
        self._count = 0

    # The names and signatures are those of os.
    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        name = self._name(path)
        made = name is not None and flags & os.O_CREAT and not Path(path).exists()
        descriptor = os.open(path, flags, mode)
        if name is not None:
            self._opened[descriptor] = name
            if made:
                self._files[name] = self._count
                self._count += 1
                self.ops.append(Op("create", name, file=self._files[name]))
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:  # type: ignore[override]
        written = os.write(descriptor, data)
        if descriptor in self._opened:
            file = self._files[self._opened[descriptor]]
            self.ops.append(Op("write", file=file, data=bytes(data[:written])))
        return written

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        os.fsync(descriptor)
        name = self._opened.get(descriptor)
        if name in self._files:
            self.ops.append(Op("sync", file=self._files[name]))
        elif name is not None:
            self.ops.append(Op("sync_folder", name))

    def close(self, descriptor: int) -> None:  # type: ignore[override]
        os.close(descriptor)
        self._opened.pop(descriptor, None)

    def rename(self, old: Any, new: Any) -> None:  # type: ignore[override]
        os.replace(old, new)
        before, after = self._name(old), self._name(new)
        if before is not None and after is not None:
            self._files[after] = self._files.pop(before)
            self.ops.append(Op("rename", before, after))

    def link(self, old: Any, new: Any) -> None:  # type: ignore[override]
        os.link(old, new)
        before, after = self._name(old), self._name(new)
        if before is not None and after is not None:
            self._files[after] = self._files[before]
            self.ops.append(Op("link", before, after, self._files[before]))

    def remove(self, path: Any) -> None:  # type: ignore[override]
        os.unlink(path)
        if (name := self._name(path)) is not None:
            self._files.pop(name)
            self.ops.append(Op("remove", name))

    def make_folder(self, path: Any, mode: int = 0o777) -> None:  # type: ignore[override]
        os.mkdir(path, mode)
        if (name := self._name(path)) is not None:
            self.ops.append(Op("make_folder", name))

    def _name(self, path: Any) -> str | None:
        found = Path(path)
        return str(found.relative_to(self.root)) if found.is_relative_to(self.root) else None


@dataclass(slots=True)
class Durable:
    """What is on the disk for certain, and what may or may not be."""

    names: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"."})
    contents: dict[int, bytes] = field(default_factory=dict)
    unsynced_names: list[Op] = field(default_factory=list)
    unsynced_writes: dict[int, list[bytes]] = field(default_factory=dict)

    def apply(self, op: Op) -> None:
        if op.call == "write":
            self.unsynced_writes.setdefault(op.file, []).append(op.data)
        elif op.call == "sync":
            self.contents[op.file] = self.contents.get(op.file, b"") + b"".join(self.unsynced_writes.pop(op.file, []))
        elif op.call == "sync_folder":
            here = [one for one in self.unsynced_names if _folder(one.path) == op.path]
            for one in here:
                self.change(one)
            self.unsynced_names = [one for one in self.unsynced_names if one not in here]
        else:
            self.unsynced_names.append(op)

    def change(self, op: Op) -> None:
        if op.call == "make_folder":
            self.folders.add(op.path)
        elif op.call == "create":
            self.names[op.path] = op.file
        elif op.call == "link":
            self.names[op.other] = op.file
        elif op.call == "remove":
            self.names.pop(op.path, None)
        elif op.call == "rename":
            self.names[op.other] = op.file
            self.names.pop(op.path, None)


State = tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]  # folders, and files with their contents


def states(ops: list[Op]) -> Iterator[tuple[int, State]]:
    """Every state that a power failure after the first k operations can leave, for every k."""
    seen = Durable()
    named = list(_with_files(ops))
    for k in range(len(named) + 1):
        for state in _after(seen):
            yield k, state
        if k < len(named):
            seen.apply(named[k])


def _with_files(ops: list[Op]) -> Iterator[Op]:
    """The same operations, each rename with the number of the file that it moves."""
    files: dict[str, int] = {}
    for op in ops:
        if op.call == "create":
            files[op.path] = op.file
        elif op.call == "link":
            files[op.other] = op.file
        elif op.call == "rename":
            files[op.other] = files.pop(op.path)
            op = Op(op.call, op.path, op.other, files[op.other])
        elif op.call == "remove":
            files.pop(op.path, None)
        yield op


def _after(seen: Durable) -> Iterator[State]:
    """Every choice among what is not synced, which a sound writer keeps to three or so; beyond that the oldest is gone.

    So a writer that forgets to sync is searched in part, which is enough to find it out.
    """
    names = seen.unsynced_names[-MOST_NAMES:]
    files = list(seen.unsynced_writes.items())[-MOST_FILES:]
    written = [(file, list(_kept(b"".join(blocks)))) for file, blocks in files]
    for kept in itertools.product((False, True), repeat=len(names)):
        now = Durable(dict(seen.names), set(seen.folders), seen.contents)
        for op, is_kept in zip(names, kept, strict=True):
            if is_kept:
                now.change(op)
        for choice in itertools.product(*(ends for _, ends in written)):
            more = dict(zip((file for file, _ in written), choice, strict=True))
            yield _state(now, more)


def _state(now: Durable, more: dict[int, bytes]) -> State:
    there = {name: now.contents.get(file, b"") + more.get(file, b"") for name, file in now.names.items()}
    return tuple(sorted(now.folders)), tuple(sorted((n, c) for n, c in there.items() if _folder(n) in now.folders))


def _kept(data: bytes) -> Iterator[bytes]:
    """What may be left of bytes that were not synced: all, none, the first so many, and those with zeros after them."""
    yield data
    step = max(1, len(data) // PIECES)
    for end in range(0, len(data), step):
        yield data[:end]
        if end in (0, len(data) // step // 2 * step):
            yield data[:end] + bytes(len(data) - end)


def _folder(name: str) -> str:
    return str(Path(name).parent)


def lay_out(state: State, root: Path) -> None:
    folders, files = state
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, contents in files:
        (root / name).write_bytes(contents)


def recorded(root: Path, workload: Callable[[Path], None]) -> list[Op]:
    """Do the work below `root`, and note what it asked of the disk."""
    before, durable.DISK = durable.DISK, RecordingDisk(root)
    try:
        workload(root)
        return durable.DISK.ops
    finally:
        durable.DISK = before
