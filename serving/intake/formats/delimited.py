"""CSV as Python's csv reads it in its strict form; the first line names the columns. Memory is flat."""

import csv
import io
from collections import Counter
from collections.abc import Iterator

from serving.intake.bad_row import BadRow
from serving.intake.files import BadInput
from serving.intake.formats.jsonl import BOM
from serving.intake.formats.raw import RawRow
from serving.intake.shown import listed, shown
from serving.intake.strict_json import MAX_LINE_BYTES

OTHER_DELIMITERS = ";\t|,"


def read_csv(file: str, opened: io.BufferedReader, delimiter: str) -> Iterator[RawRow]:
    """Every row, one with a cell too many or too few as a fault.

    Raises:
        BadInput: from where a quote is open or the text is not UTF-8, no later row can be told.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(file, opened)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header: list[str] | None = None
        for cells in reader:
            if cells and header is None:
                header = _checked_header(file, lines.begun_at, cells, delimiter)
            elif cells and header is not None:
                yield _row(file, lines.begun_at, header, cells)
            lines.begin_row()
    except csv.Error as error:
        way = "close every quote, double a quote within one, and end lines with LF or CRLF"
        raise BadInput("E_CSV", f"{file}:{lines.begun_at}: not CSV ({error}); {way}") from None
    if header is None:
        raise BadInput("E_EMPTY", f"{file}: empty; the first line must name the columns")


class _Lines:
    """Lines as text, each with its end. A row may span several, yet no more bytes than a line of JSON may have."""

    def __init__(self, file: str, opened: io.BufferedReader) -> None:
        self.begun_at = 1  # the line on which the row that is being read begins
        self._file, self._opened = file, opened
        self._line = self._row_bytes = self._place = 0

    def begin_row(self) -> None:
        self.begun_at, self._row_bytes = self._line + 1, 0

    def __iter__(self) -> Iterator[str]:
        while line := self._opened.readline(MAX_LINE_BYTES + 1):
            self._line += 1
            self._row_bytes += len(line)
            if self._row_bytes > MAX_LINE_BYTES:
                reason = f"a row of more than {MAX_LINE_BYTES} bytes; close its quote, or shorten it"
                raise BadInput("E_CSV", f"{self._file}:{self.begun_at}: {reason}")
            yield self._decoded(line.removeprefix(BOM) if self._line == 1 else line)
            self._place += len(line)

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"at byte {error.start} of the line, {self._place + error.start} of the file"
            raise BadInput("E_UTF8", f"{self._file}:{self._line}: not UTF-8 {where}; save it as UTF-8") from None


def _checked_header(file: str, line: int, header: list[str], delimiter: str) -> list[str]:
    if len(set(header)) < len(header):
        twice = [name for name, count in Counter(header).items() if count > 1]
        reason = f"the first line names a column twice: {listed(twice)}; give each its own name"
        raise BadInput("E_CSV", f"{file}:{line}: {reason}")
    # To guess the delimiter would be to guess the columns; to go on would be to ask the model about half a row.
    others = [other for other in OTHER_DELIMITERS if other != delimiter and other in header[0]]
    if len(header) == 1 and others:
        reason = f"the first line names one column, {shown(header[0])}; if {others[0]!r} stands between columns"
        raise BadInput("E_CSV", f"{file}:{line}: {reason}, set dataset.delimiter to it, else rename the column")
    return header


def _row(file: str, line: int, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) == len(header):
        return RawRow(file, line, dict(zip(header, cells, strict=True)), all_text=True)
    reason = f"{len(cells)} cells, but the first line names {len(header)} columns; quote a cell that holds a delimiter"
    return RawRow(file, line, None, BadRow("E_CSV", reason))
