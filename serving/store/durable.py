"""The only way to disk for a run: written aside, synced, renamed, and the folder synced. Existence means complete."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_bytes(path: Path, data: bytes) -> str:
    """Put `data` at `path` in one step that survives a crash; returns its sha256."""
    return write_blocks(path, [data])


def write_blocks(path: Path, blocks: Iterable[bytes]) -> str:
    """The same for data that comes block by block.

    An error of write or fsync is raised, never retried: after a failed fsync the kernel may have dropped the pages.
    """
    aside = path.with_name(f".{path.name}.writing")
    digest = hashlib.sha256()
    with aside.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        for block in blocks:
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> str:
    return write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n").encode())


def write_parquet(path: Path, table: pa.Table) -> str:
    """Write a table with page checksums; returns the sha256 of the file's bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return write_bytes(path, memoryview(sink.getvalue()).tobytes())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and its parents, that are still there after a power loss."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
