"""The only way to disk for a run: written aside, synced, read back, renamed, and the folder synced.

What has a name is complete. In the copy of a bucket it has its name there first (bucket.py). Every system call goes
through DISK, so that a test can make each of them fail, or lose what a power failure would lose.
"""

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from serving.digest import sha256_of
from serving.store.bucket import BucketFault, bucket_of, mark

DISK_FAILED = 5  # exit code
MIB = 2**20
WRITING = ".writing"  # how the name of a file ends that is not complete


class DiskFault(OSError):
    """The disk did not take what was to be written. Nothing of it counts; what was durable before still is."""


class Disk:
    """The system calls themselves."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    rename = staticmethod(os.replace)
    link = staticmethod(os.link)
    remove = staticmethod(os.unlink)
    make_folder = staticmethod(os.mkdir)

    @staticmethod
    def end(message: str) -> NoReturn:
        """End this process on the spot: no handler runs, so nothing is written after a failed fsync."""
        os.write(sys.stderr.fileno(), f"gristmill: {message}\n".encode(errors="replace"))
        os._exit(DISK_FAILED)


DISK = Disk()


def write_bytes(path: Path, data: bytes, new: bool = False) -> str:
    """Put `data` at `path` in one step that survives a crash; returns its sha256."""
    return write_blocks(path, [data], new)


def write_blocks(path: Path, blocks: Iterable[bytes], new: bool = False) -> str:
    """The same for data that comes block by block.

    Raises:
        FileExistsError: it was to be `new`, and another process was first.
        DiskFault: a write failed, or what can be read back is not what was written; nothing is at `path` but what was
            there before. A failed fsync raises nothing: it ends the process, since the kernel may have dropped pages
            that it will never report again.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{WRITING}")
    digest = hashlib.sha256()
    size = 0
    try:
        descriptor = DISK.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for block in blocks:
                digest.update(block)
                size += len(block)
                _write_all(descriptor, block)
            _sync(descriptor, aside)
        finally:
            DISK.close(descriptor)
        if (found := sha256_of(aside)) != digest.hexdigest():
            raise DiskFault(f"{path}: the disk gave back other bytes than were written (sha256 {found}); check it")
        if (bucket := bucket_of(path)) is not None:
            mark(aside, bucket.put(path, aside, new))
        if new and bucket is None:
            DISK.link(aside, path)
            _forget(aside)
        else:
            DISK.rename(aside, path)
    except FileExistsError:
        _forget(aside)
        raise
    except OSError as error:
        _forget(aside)
        raise _explained(error, path, size) from None
    except BaseException:
        _forget(aside)
        raise
    sync_folder(path.parent)
    return digest.hexdigest()


def open_new(path: Path, data: bytes) -> int:
    """A descriptor, to read and write, of a new file with `data` in it: for what need not outlive a power failure."""
    try:
        descriptor = DISK.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, data)
            if (found := os.fstat(descriptor).st_size) != len(data):
                raise DiskFault(f"{path}: {found} bytes, but {len(data)} were written; check the disk")
        except BaseException:
            DISK.close(descriptor)
            raise
    except FileExistsError:
        raise
    except OSError as error:
        raise _explained(error, path, len(data)) from None
    return descriptor


class Appender:
    """A file that only grows; what `append` returned from is durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._appends = 0
        self._bucket = bucket_of(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = DISK.open(path, flags, 0o600)
        except OSError as error:
            raise _explained(error, path, 0) from None
        sync_folder(path.parent)

    def append(self, data: bytes) -> None:
        """Raises DiskFault; after it the file may end in a part of `data`, and takes nothing more."""
        try:
            _write_all(self._descriptor, data)
            _sync(self._descriptor, self._path)
            self._size += len(data)
            if (found := os.fstat(self._descriptor).st_size) != self._size:
                raise DiskFault(f"{self._path}: {found} bytes, but {self._size} were written; check the disk")
            if self._bucket is not None:
                self._bucket.append(self._path, self._appends, data)
                self._appends += 1
        except OSError as error:
            raise _explained(error, self._path, len(data)) from None

    def close(self) -> None:
        DISK.close(self._descriptor)


def remove(path: Path) -> None:
    """Take away what no longer counts. It may come back after a power failure, and still not count."""
    try:
        if (bucket := bucket_of(path)) is not None and not path.name.endswith(WRITING):
            bucket.remove(path)
        DISK.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _explained(error, path, 0) from None


def remove_folder(folder: Path) -> None:
    """With all that is in it."""
    if (bucket := bucket_of(folder)) is not None:
        bucket.remove_below(folder)
    shutil.rmtree(folder)


def is_there(path: Path) -> bool:
    """Also if it was written by another machine just now."""
    bucket = bucket_of(path)
    return path.exists() if bucket is None else bucket.has(path)


def send(folder: Path) -> None:
    """Make durable what a process has written in `folder` that has no way to a bucket."""
    if (bucket := bucket_of(folder)) is not None:
        bucket.send(folder)


def sync_folder(folder: Path) -> None:
    try:
        descriptor = DISK.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(error, folder, 0) from None
    try:
        _sync(descriptor, folder)
    finally:
        DISK.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and its parents, that are still there after a power failure."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        try:
            DISK.make_folder(folder, 0o700)
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise _explained(error, folder, 0) from None
        sync_folder(folder.parent)


def drop_unfinished(folder: Path) -> None:
    """What a crash left half written. Only for the one process that may write in `folder`."""
    for file in folder.glob(f".*{WRITING}"):
        remove(file)


def _write_all(descriptor: int, data: bytes) -> None:
    """A short write is not an error: the kernel took a part, and gets the rest."""
    rest = memoryview(data)
    while rest:
        rest = rest[DISK.write(descriptor, rest) :]


def _sync(descriptor: int, path: Path) -> None:
    try:
        DISK.fsync(descriptor)
    except OSError as error:
        DISK.end(
            f"{path}: fsync failed ({os.strerror(error.errno or 0)}), so what is on the disk is not known; what was"
            " settled before is safe. Check the disk, then run the same command again"
        )


def _forget(aside: Path) -> None:
    try:
        DISK.remove(aside)
    except OSError:
        pass  # it does not count, and the next writer takes it away


def _explained(error: OSError, path: Path, wanted_bytes: int) -> DiskFault:
    if isinstance(error, DiskFault):
        return error
    if isinstance(error, BucketFault):
        return DiskFault(str(error))
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        has = shutil.disk_usage(_existing(path)).free
        reason += f": needs {wanted_bytes / MIB:.1f} MiB, has {has / MIB:.1f} MiB; free some, then"
    else:
        reason += "; mend that, then"
    fault = DiskFault(f"{path}: {reason} run the same command again. What was settled before is safe")
    fault.errno = error.errno
    return fault


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
