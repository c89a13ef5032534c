"""From an open file to raw rows, each with the file and line it came from. Values are not judged here."""

import hashlib
import os
from collections.abc import Iterator

from serving.intake.files import BadInput, InputFile
from serving.intake.formats.compressed import open_text
from serving.intake.formats.delimited import read_csv
from serving.intake.formats.jsonl import read_jsonl
from serving.intake.formats.raw import PASSED_OVER, Mine, RawRow, Reading, every_row


def read_rows(file: InputFile, reading: Reading, mine: Mine = every_row) -> Iterator[RawRow]:
    """Every row of one file, a bad one as a fault, one that is not `mine` as PASSED_OVER; blank lines are no rows.

    Raises:
        BadInput: the file as a whole cannot be read, or is not the one that was hashed when it was opened.
    """
    if file.name.lower().endswith(".parquet"):
        from serving.intake.formats.parquet import read_parquet

        with os.fdopen(os.dup(file.descriptor), "rb") as opened:
            opened.seek(0)
            yield from _only(mine, read_parquet(file, opened, reading))
        for _ in _watched(file):  # its pages are not read in order, so it is hashed once they have been
            pass
        return
    with open_text(file, _watched(file), reading) as text:
        if ".csv" in file.name.lower()[-len(".csv.zst") :]:
            yield from _only(mine, read_csv(file.name, text, reading.delimiter))
        else:
            yield from read_jsonl(file.name, text, mine)  # which takes other rows for read without parsing them


def _only(mine: Mine, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        yield row if mine() else PASSED_OVER


def _watched(file: InputFile) -> Iterator[bytes]:
    """The file's bytes, hashed again: the run is named by what they were when the file was opened."""
    digest = hashlib.sha256()
    for block in file.blocks():
        digest.update(block)
        yield block
    if (found := digest.hexdigest()) != file.sha256:
        reason = f"changed while it was read: sha256 was {file.sha256}, is {found}; run again when it is complete"
        raise BadInput("E_HASH", f"{file.name}: {reason}")
