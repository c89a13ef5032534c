"""A folder in an object store, and the copy of it that this machine works on: what counts is what the bucket holds.

Whatever durable.py gives a name below the copy it puts here first, one object in one step and in the same order, so
that a bucket holds after a crash what a disk would. A file that only grows is an object for each of its appends.
Before a run is written, its copy is made what the bucket has.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

PART_BYTES = 8 * 2**20  # of an object that is sent in parts
AT_A_TIME = 8
LISTS_AT_MOST = 5
TRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=120)}
SCHEMES = ("s3://", "s3a://", "gs://", "az://", "azure://", "abfs://", "abfss://")
ASIDE = ".pulled.writing"
ETAG = "user.gristmill.etag"  # an attribute of a file of the copy: which object it is
APPEND = re.compile(r"^(?P<file>.+\.journal)/(?P<place>\d{8})$")
OF_THIS_MACHINE = {"lock", "logs", "meters", "leases"}  # in the folder of a run; meters are sent, and never taken away
TOKEN, PULLING = "token", "pulling"  # beside the copy
RUN = "run.json"  # what a folder has that is a run's


class BucketFault(OSError):
    """The object store did not do what it was asked."""


class Bucket:
    """`url` names the folder, such as s3://bucket/runs; keys and endpoint are the environment's (AWS_*, GOOGLE_*,
    AZURE_*). With `of_runs` nothing else of it is copied. Every method raises BucketFault."""

    def __init__(self, url: str, copy: Path, of_runs: bool = False) -> None:
        self.url = url.rstrip("/")
        self.copy = copy
        self._of_runs = of_runs
        self._store = _open(self.url)
        self._appends: dict[str, list[str]] = defaultdict(list)  # by journal, the objects that it is of
        copy.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token = _token(copy.with_name(TOKEN))

    def url_of(self, path: Path) -> str:
        return f"{self.url}/{self._key(path)}"

    def put(self, path: Path, data: Path | bytes, new: bool = False) -> str:
        """Give `data`, or the bytes of the file of that name, the name that `path` has below the copy; returns its tag.

        Raises:
            FileExistsError: it was to be `new`, and somebody else was first; the copy has theirs.
        """
        key = self._key(path)
        if new:
            return self._create(path, key, data if isinstance(data, bytes) else data.read_bytes())
        with self._said(key):
            return str(_library().put(self._store, key, data, chunk_size=PART_BYTES)["e_tag"])

    def _create(self, path: Path, key: str, data: bytes) -> str:
        """A store may have taken it although its answer was lost, so what is there decides, not what was said."""
        library, fault = _library(), None
        try:
            return str(library.put(self._store, key, data, mode="create", use_multipart=False)["e_tag"])
        except Exception as error:  # noqa: BLE001 (of obstore: they have no class of their own but Exception's)
            fault = error
        with self._said(key):
            try:
                found = library.get(self._store, key)
                same = found.bytes().to_bytes() == data
            except FileNotFoundError:
                raise fault from None
        if not same:
            self.fetch(path)
            raise FileExistsError(f"{self.url}/{key}")
        return str(found.meta["e_tag"])

    def append(self, path: Path, place: int, data: bytes) -> None:
        key = f"{self._key(path)}/{place:08}"
        with self._said(key):
            _library().put(self._store, key, data, use_multipart=False)
        self._appends[self._key(path)].append(key)

    def remove(self, path: Path) -> None:
        """An object, or all that a file that grew is of."""
        key = self._key(path)
        with self._said(key):
            _library().delete(self._store, self._appends.pop(key, [key]))

    def remove_below(self, folder: Path) -> None:
        with self._said(self._key(folder)):
            if keys := [meta["path"] for meta in self._listed(folder)]:
                _library().delete(self._store, keys)

    def has(self, path: Path) -> bool:
        """If so, the copy has it as well."""
        return self.changed_at(path) is not None and bool(self.fetch(path))

    def changed_at(self, path: Path) -> datetime | None:
        """By the clock of the store; None of what is not there."""
        try:
            with self._said(self._key(path)):
                changed: datetime = _library().head(self._store, self._key(path))["last_modified"]
                return changed
        except FileNotFoundError:
            return None

    def read(self, path: Path) -> bytes | None:
        try:
            with self._said(self._key(path)):
                data: bytes = _library().get(self._store, self._key(path)).bytes().to_bytes()
                return data
        except FileNotFoundError:
            return None

    def send(self, folder: Path) -> None:
        """What another process has made below `folder`, and so not put here: manifests last, as they were written."""
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _tag(file)]
        for manifests in (False, True):
            self._each(self._send, (file for file in files if (file.suffix == ".json") is manifests))

    def _send(self, file: Path) -> None:
        mark(file, self.put(file, file))

    def pull(self, run: Path | None = None) -> None:
        """Make the copy what the bucket holds: of one run, whose only writer we are, or of all that nobody here writes.

        What a run's folder has of this machine alone is left as it is.
        """
        with nullcontext() if run else self.still(), self._said(""):
            for _ in range(LISTS_AT_MOST):
                try:
                    return self._pull(run)
                except FileNotFoundError:
                    continue  # what was listed was taken away: something else stands for it now
        raise BucketFault(f"{self.url}: it changes faster than it can be read; run the same command again later")

    def _pull(self, run: Path | None) -> None:
        held = set() if run else {folder for folder in self.copy.iterdir() if is_locked(folder / "lock")}
        objects = {meta["path"]: meta for meta in self._listed(run) if self.copy / _parts(meta)[0] not in held}
        if self._of_runs and run is None:
            objects = {key: meta for key, meta in objects.items() if f"{_parts(meta)[0]}/{RUN}" in objects}
        there = {self.copy / key for key in objects} | self._assembled(objects)
        self._each(self.fetch, (self.copy / key for key, meta in objects.items() if not self._has(key, meta)))
        for file in [*(run or self.copy).rglob("*")]:
            folder, *below = file.relative_to(self.copy).parts
            ours = self._of_runs and (not below or below[0] in OF_THIS_MACHINE or self.copy / folder in held)
            if not ours and file.is_file() and file not in there:
                file.unlink()

    def _assembled(self, objects: dict[str, Any]) -> set[Path]:
        """Takes the appends of files that grew out of `objects`, and makes the files. What comes after a gap was never
        promised: a file is taken away all at once, and not always."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in sorted(objects):
            if appended := APPEND.match(key):
                found[appended["file"]].append(key)
                del objects[key]
        for file, keys in found.items():
            whole = takewhile(lambda numbered: numbered[1].endswith(f"/{numbered[0]:08}"), enumerate(keys))
            _replace(self.copy / file, [_library().get(self._store, key).bytes().to_bytes() for _, key in whole])
            self._appends[file] = keys
        return {self.copy / file for file in found}

    def _has(self, key: str, meta: Any) -> bool:
        """A meter that was counted on here is newer than the one that was sent; a lease is asked for when it counts."""
        _, *below = _parts(meta)
        if self._of_runs and below[:1] == ["meters"]:
            return (self.copy / key).exists()
        return (self._of_runs and below[:1] == ["leases"]) or _is_object(self.copy / key, meta)

    def _listed(self, folder: Path | None) -> Iterator[Any]:
        for metas in _library().list(self._store, prefix=self._key(folder) if folder else None):
            for meta in metas:
                if {".", ".."} & set(_parts(meta)):
                    raise BucketFault(f"{self.url}/{meta['path']}: a name that leads out of its folder; remove it")
                yield meta

    def fetch(self, path: Path) -> Path:
        with self._said(self._key(path)):
            found = _library().get(self._store, self._key(path))
            _replace(path, found.stream(), str(found.meta["e_tag"]))
        return path

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody on this machine makes the copy what the bucket holds meanwhile."""
        with self.copy.with_name(PULLING).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _said(self, key: str) -> Iterator[None]:
        """What goes wrong in the library, in words. It raises classes of its own that have only Exception above."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith("obstore"):
                raise
            first = str(error).partition("\n")[0][:300]
            raise BucketFault(
                f"{self.url}/{key}: {first}; mend that, then run the same command again. What was settled is safe"
            ) from None

    def _each(self, work: Any, items: Iterable[Any]) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as workers:
            for _ in workers.map(work, items):
                pass

    def _key(self, path: Path) -> str:
        return path.relative_to(self.copy).as_posix()


_mounted: list[Bucket] = []


def is_url(text: str) -> bool:
    return text.startswith(SCHEMES)


def mount(url: str, copies: Path) -> Path:
    """The copy of a folder of runs in an object store; from now on what is made durable in it goes there."""
    bucket = Bucket(url, _place(url, copies), of_runs=True)
    bucket.pull()
    if bucket.copy not in (other.copy for other in _mounted):
        _mounted.append(bucket)
    return bucket.copy


def copy_of(url: str, copies: Path) -> Path:
    """A copy to read, as the folder is now."""
    bucket = Bucket(url, _place(url, copies))
    bucket.pull()
    return bucket.copy


def _place(url: str, copies: Path) -> Path:
    """One for each URL, so that of two that lie in each other neither sees the other's."""
    name = url.rstrip("/").rpartition("/")[2]
    return copies.absolute() / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12] / name


def unmount() -> None:
    """For a process that works for another, which sends what it makes."""
    _mounted.clear()


def bucket_of(path: Path) -> Bucket | None:
    """The one that `path` is in the copy of."""
    return next((bucket for bucket in _mounted if path.is_relative_to(bucket.copy)), None)


def name_of(path: Path) -> str:
    """As a person finds it."""
    bucket = bucket_of(path)
    return str(path) if bucket is None else bucket.url_of(path)


def mark(file: Path, tag: str) -> None:
    """That it is the object with this tag. Where the file system keeps no such note, the file is fetched again."""
    try:
        os.setxattr(file, ETAG, tag.encode())
    except OSError:
        pass


def _tag(file: Path) -> str | None:
    try:
        return os.getxattr(file, ETAG).decode()
    except OSError:
        return None


def _is_object(file: Path, meta: Any) -> bool:
    """A power failure can leave the note and take the bytes, which were not synced."""
    return bool(_tag(file) == meta["e_tag"] and file.stat().st_size == meta["size"])


def _parts(meta: Any) -> tuple[str, ...]:
    return PurePosixPath(meta["path"]).parts


def _replace(file: Path, blocks: Iterable[Any], tag: str | None = None) -> None:
    """Without a sync: what a power failure takes from the copy, the bucket still has."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = file.with_name(f".{file.name}.{os.getpid()}{ASIDE}")
    with aside.open("wb") as opened:
        for block in blocks:
            opened.write(block)
    if tag is not None:
        mark(aside, tag)
    aside.rename(file)


def is_locked(lock: Path) -> bool:
    """By a live process of this machine."""
    if not lock.exists():
        return False
    with lock.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _token(file: Path) -> str:
    """Which copy this is, among all machines'."""
    if not file.exists():
        aside = file.with_name(f"{TOKEN}.{os.getpid()}")
        aside.write_text(f"{secrets.token_hex(8)}-{time.time_ns():x}", encoding="ascii")
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
        aside.unlink()
    return file.read_text(encoding="ascii")


def _open(url: str) -> Any:
    library = _library()
    try:
        return library.store.from_url(url, retry_config=TRIES)
    except Exception as error:  # noqa: BLE001 (as in _said)
        raise BucketFault(f"{url}: {str(error).partition(chr(10))[0][:300]}; name it s3://BUCKET/FOLDER") from None


def _library() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise BucketFault("an object store needs obstore: pip install 'obstore>=0.9'") from None
    return obstore
