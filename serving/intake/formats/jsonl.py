"""JSON Lines: one object a line, whatever else stands in the file. Memory is flat however long a line is."""

import io
from collections.abc import Iterator

from serving.intake.bad_row import BadRow
from serving.intake.formats.raw import PASSED_OVER, Mine, RawRow
from serving.intake.strict_json import MAX_LINE_BYTES, NotStrictJson, parse_line

BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
SKIP_BYTES = 2**16
NOT_LINES = "; this looks like JSON, not JSONL: write one whole object a line"


def read_jsonl(file: str, opened: io.BufferedReader, mine: Mine) -> Iterator[RawRow]:
    """Every row, a bad one as a fault; blank lines are passed over and counted."""
    hint: str | None = None  # set by the first row: what a file that begins like a JSON document is told
    for number, line in enumerate(_lines(opened), start=1):
        if number == 1 and isinstance(line, bytes):
            line = line.removeprefix(BOM)
        if isinstance(line, bytes) and not line.strip(BLANK):
            continue
        if hint is None:
            hint = NOT_LINES if isinstance(line, bytes) and line.strip(BLANK)[:1] == b"[" else ""
        if not mine():
            yield PASSED_OVER
            continue
        try:
            yield RawRow(file, number, _row(line, hint))
        except BadRow as fault:
            yield RawRow(file, number, None, fault)


def _lines(opened: io.BufferedReader) -> Iterator[bytes | int]:
    """Each line with its end, or, of one that is too long to hold, how many bytes it has."""
    while line := opened.readline(MAX_LINE_BYTES + len(b"\r\n")):
        if len(line) < MAX_LINE_BYTES + len(b"\r\n") or line.endswith(b"\n"):
            yield line
            continue
        length = len(line)
        while not line.endswith(b"\n") and (line := opened.readline(SKIP_BYTES)):
            length += len(line)
        yield length


def _row(line: bytes | int, hint: str) -> dict[str, object]:
    if isinstance(line, int):
        reason = f"line of {line} bytes; at most {MAX_LINE_BYTES} are allowed, so shorten or split it"
        raise BadRow("E_LINE_TOO_LONG", reason)
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if (place := line.find(b"\r")) >= 0:
        reason = f"a lone carriage return at byte {place} of the line; end every line with LF or CRLF"
        raise BadRow("E_JSON", reason)
    try:
        value = parse_line(line.strip(BLANK))
    except NotStrictJson as fault:
        raise BadRow(fault.code, f"{fault}{hint if fault.code == 'E_JSON' else ''}") from None
    if not isinstance(value, dict):
        raise BadRow("E_ROW_TYPE", f"the row is not an object{hint}; write one as {{...}}")
    return value
