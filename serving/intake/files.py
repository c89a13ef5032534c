"""From a path, glob or URL to raw rows, each with the file and line it came from. Values are not judged here."""

import csv
import glob
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from serving.intake.body import BadRow
from serving.intake.strict_json import MAX_LINE_BYTES, NotStrictJson, parse_line

SUFFIXES = (".jsonl", ".parquet", ".csv")
BOM = b"\xef\xbb\xbf"


class BadInput(ValueError):
    """A whole file cannot be used. Nothing was spent."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file, or why it cannot be read."""

    file: str
    line: int
    value: dict[str, Any] | None
    fault: BadRow | None = None
    all_text: bool = False  # True of a CSV row, whose cells have no types


def find_files(path: str, folder: Path) -> list[str]:
    """The input files in a stable order: `path` is a file, a glob, or an fsspec URL; relative ones start at `folder`.

    Raises:
        BadInput: nothing there, or a file of a kind that is not known.
    """
    if "://" in path:
        found = _remote(path)
    elif (folder / path).is_file():  # also where its name looks like a glob
        found = [str(folder / path)]
    else:
        found = sorted(glob.glob(str(folder / path), recursive=True))
    if not found:
        raise BadInput(f"dataset.path = {path!r}: no such file (looked in {folder})")
    for file in found:
        if not file.endswith(SUFFIXES):
            raise BadInput(f"{file}: unknown kind of file; known endings: {', '.join(SUFFIXES)}")
        if "://" not in file and not Path(file).is_file():
            raise BadInput(f"{file}: not a regular file")
    return found


def _remote(url: str) -> list[str]:
    import fsspec

    try:
        return sorted(file.full_name for file in fsspec.open_files(url, "rb"))
    except (OSError, ImportError, ValueError) as error:
        raise BadInput(f"dataset.path = {url!r}: {error}") from None


def open_file(file: str) -> BinaryIO:
    if "://" not in file:
        return Path(file).open("rb")
    import fsspec

    return cast(BinaryIO, fsspec.open(file, "rb").open())


def sha256_of_files(files: list[str]) -> str:
    """One digest over the bytes of all files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with open_file(file) as opened:
            while block := opened.read(2**20):
                digest.update(block)
        digest.update(b"\0")  # so that moving a row from one file to the next is seen
    return digest.hexdigest()


def read_rows(file: str) -> Iterator[RawRow]:
    """Every row of one file, a bad one as a fault; blank lines are passed over.

    Raises:
        BadInput: the file as a whole cannot be read.
    """
    with open_file(file) as opened:
        if file.endswith(".jsonl"):
            yield from _jsonl(file, opened)
        elif file.endswith(".csv"):
            yield from _csv(file, opened)
        else:
            yield from _parquet(file, opened)


def _jsonl(file: str, opened: BinaryIO) -> Iterator[RawRow]:
    for number, line in enumerate(opened, start=1):
        stripped = (line.removeprefix(BOM) if number == 1 else line).strip(b" \t\r\n")
        if not stripped:
            continue
        try:
            value = parse_line(stripped)
        except NotStrictJson as fault:
            yield RawRow(file, number, None, BadRow(fault.code, str(fault)))
            continue
        if isinstance(value, dict):
            yield RawRow(file, number, value)
        else:
            hint = "; this looks like a JSON array, write one object a line" if isinstance(value, list) else ""
            yield RawRow(file, number, None, BadRow("E_ROW_TYPE", f"the row is not an object{hint}"))


def _csv(file: str, opened: BinaryIO) -> Iterator[RawRow]:
    text = io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise BadInput(f"{file}: empty; the first line must name the columns")
        if len(set(header)) < len(header):
            raise BadInput(f"{file}: the first line names a column twice: {', '.join(header)}")
        line = reader.line_num + 1  # where the next row begins; a quoted cell may hold line breaks
        for cells in reader:
            if cells:
                yield _csv_row(file, line, header, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{file}:{reader.line_num}: not CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not UTF-8 ({error.reason} near byte {error.start}); save it as UTF-8") from None
    finally:
        text.detach()  # whoever opened the file closes it


def _csv_row(file: str, line: int, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) == len(header):
        return RawRow(file, line, dict(zip(header, cells, strict=True)), all_text=True)
    reason = f"{len(cells)} cells, but the first line names {len(header)} columns"
    return RawRow(file, line, None, BadRow("E_CSV", reason))


def _parquet(file: str, opened: BinaryIO) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(opened, page_checksum_verification=True)
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(file, number, value)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{file}: not readable as Parquet: {str(error).splitlines()[0]}") from None
