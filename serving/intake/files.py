"""From a path, glob or URL to open files: regular ones, below the folder that was named, each opened once."""

import glob
import hashlib
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.intake.shown import escaped, shown

PLAIN = (".jsonl", ".ndjson", ".csv")
SUFFIXES = (*PLAIN, *(f"{plain}{packed}" for plain in PLAIN for packed in (".gz", ".zst")), ".parquet")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz", ".7z", ".rar")
BLOCK_BYTES = 2**16  # small enough that the allocator keeps it; a larger one costs more than the reading
OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs")
KERNEL_FOLDERS = ("/proc", "/sys", "/dev")  # what looks like a file there is memory, a device or a question


class BadInput(ValueError):
    """A whole file cannot be used. Nothing was spent. `code` tells the kind of fault."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class InputFile:
    """A file that is open, under the name that messages give it. The one descriptor serves hashing and reading."""

    name: str
    descriptor: int
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, descriptor: int) -> "InputFile":
        """Takes over the descriptor, and closes it with the last reference to this value."""
        opened = cls(name, descriptor, os.fstat(descriptor).st_size, _sha256(name, descriptor))
        weakref.finalize(opened, os.close, descriptor)
        return opened

    def blocks(self) -> Iterator[bytes]:
        """The bytes from the beginning, wherever others who share the descriptor stand."""
        return _blocks(self.name, self.descriptor)


def find_files(path: str, folder: Path) -> list[str]:
    """The input files in a stable order: `path` is a file, a glob, or an fsspec URL; relative ones start at `folder`.

    Raises:
        BadInput: nothing there, or a file of a kind that is not known.
    """
    path = path.removeprefix("file://") if path.startswith("file:///") else path
    if "\0" in path:
        raise BadInput("E_PATH", f"dataset.path = {shown(path)}: has a NUL character in it; leave it out")
    found = _remote(path) if "://" in path else _local(path, folder)
    if not found:
        raise BadInput(
            "E_PATH", f"dataset.path = {shown(path)}: no such file (looked in {folder}); name a file that is there"
        )
    for file in found:
        _of_a_known_kind(file)
    return found


def _local(path: str, folder: Path) -> list[str]:
    whole = str(folder / path)
    try:
        if os.path.lexists(whole):  # also where its name looks like a glob
            return [whole]
        return sorted(glob.glob(whole, recursive=True))
    except (OSError, ValueError) as error:
        raise BadInput("E_PATH", f"dataset.path = {shown(path)}: {error}; name a file that is there") from None


def _of_a_known_kind(file: str) -> None:
    name, kind = short_name(file), file.lower()
    try:
        file.encode()
    except UnicodeEncodeError:
        raise BadInput("E_PATH", f"{escaped(name)}: its name is not UTF-8; rename it") from None
    if kind.endswith((".gz.gz", ".zst.gz", ".gz.zst", ".zst.zst", ".parquet.gz", ".parquet.zst")):
        code = "E_GZIP" if kind.endswith(".gz") else "E_ZSTD"
        raise BadInput(code, f"{name}: compressed twice by its name; unpack it once")
    if kind.endswith(ARCHIVES):
        raise BadInput("E_ARCHIVE", f"{name}: an archive; unpack it and name the files in it")
    if not kind.endswith(SUFFIXES):
        raise BadInput("E_PATH", f"{name}: unknown kind of file; known endings: {', '.join(SUFFIXES)}")


def open_inputs(path: str, folder: Path) -> list[InputFile]:
    """Find and open the files that a job names, and hash each.

    Raises:
        BadInput: none is there, or one is not a regular file below the folder that `path` names.
    """
    found = find_files(path, folder)
    root = _root(path, folder)
    return [InputFile.of(short_name(file), _spooled(file) if root is None else _opened(file, root)) for file in found]


def sha256_of_files(files: list[InputFile]) -> str:
    """One digest over the digests of all files, in order: it changes when a row moves from one file to the next."""
    return hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


def short_name(file: str) -> str:
    """The file as messages name it: relative to where the user stands, if it is below."""
    path = Path(file)
    if "://" in file or not path.is_absolute() or not path.is_relative_to(Path.cwd()):
        return file
    return str(path.relative_to(Path.cwd()))


def _root(path: str, folder: Path) -> str | None:
    """The folder that a file may not leave by a link: the part of `path` that is not a glob. None of a URL."""
    path = path.removeprefix("file://") if path.startswith("file:///") else path
    if "://" in path:
        return None
    whole = str(folder / path)
    if os.path.lexists(whole):
        return os.path.realpath(os.path.dirname(whole))
    fixed = Path(whole)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return os.path.realpath(fixed)


def _opened(file: str, root: str) -> int:
    name = short_name(file)
    real = os.path.realpath(file)
    if os.path.commonpath([root, real]) != root:
        raise BadInput("E_PATH", f"{name}: links out of its folder; name the file itself: {real}")
    try:
        if not stat.S_ISREG(os.lstat(real).st_mode):  # before opening: to open some devices is to use them
            raise BadInput("E_PATH", f"{name}: not a regular file; name a file")
        # Not through a link that was put there since, and without waiting for the other end of a pipe.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise BadInput("E_PATH", f"{name}: cannot be opened ({error.strerror}); name a file that can be read") from None
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode) or seen.st_dev in _kernels():
        os.close(descriptor)
        raise BadInput("E_PATH", f"{name}: not a regular file on a disk; name a file")
    return descriptor


def _kernels() -> set[int]:
    return {os.stat(folder).st_dev for folder in KERNEL_FOLDERS if os.path.ismount(folder)}


def _remote(url: str) -> list[str]:
    import fsspec

    _use_obstore()
    try:
        return sorted(file.full_name for file in fsspec.open_files(url, "rb"))
    except Exception as error:  # noqa: BLE001 (each file system of fsspec raises what its own library raises)
        raise BadInput("E_PATH", f"dataset.path = {shown(url)}: {escaped(str(error), 200)}; check the URL") from None


def _use_obstore() -> None:
    """For object stores, where it is installed: as a run's bucket does, so that keys are found in the same places."""
    try:
        from obstore.fsspec import register
    except ImportError:
        return
    register(OBJECT_STORES)


def _spooled(url: str) -> int:
    """A copy without a name, so that what is hashed is what is read; it is gone with its descriptor."""
    import fsspec

    with tempfile.TemporaryFile() as spool:
        for block in _remote_blocks(
            url, lambda: fsspec.open(url, "rb").open()
        ):  # an error of writing is one of this disk, not of the input
            spool.write(block)
        spool.flush()
        return os.dup(spool.fileno())


def _remote_blocks(url: str, open_it: Callable[[], Any]) -> Iterator[bytes]:
    try:
        with open_it() as remote:
            while block := remote.read(BLOCK_BYTES):
                yield block
    except Exception as error:  # noqa: BLE001 (as in _remote)
        raise BadInput("E_PATH", f"{url}: cannot be read ({escaped(str(error), 200)}); check the URL") from None


def _blocks(name: str, descriptor: int) -> Iterator[bytes]:
    block = bytearray(BLOCK_BYTES)
    place = 0
    while length := _read(name, descriptor, block, place):
        yield bytes(memoryview(block)[:length])
        place += length


def _read(name: str, descriptor: int, block: bytearray | memoryview, place: int) -> int:
    try:
        return os.preadv(descriptor, [block], place)
    except OSError as error:
        raise BadInput("E_PATH", f"{name}: cannot be read ({error.strerror}); name another file") from None


def _sha256(name: str, descriptor: int) -> str:
    """Hashed once while the file stays as it is; whoever reads it hashes it again."""
    seen = os.fstat(descriptor)
    identity = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    if identity not in _hashed:
        digest, block = hashlib.sha256(), memoryview(bytearray(4 * BLOCK_BYTES))
        place = 0
        while length := _read(name, descriptor, block, place):
            digest.update(block[:length])
            place += length
        _hashed[identity] = digest.hexdigest()
    return _hashed[identity]


_hashed: dict[tuple[int, ...], str] = {}
