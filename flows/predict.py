"""`gristmill predict`: a table of configurations in, the same table out with what the planner says of each row."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from optimizer.catalogue.catalogue import Catalogue
from optimizer.planner.predict import Prediction, predict, predict_all
from serving.intake.files import BadInput
from serving.store.durable import write_blocks

NEEDED = ("engine", "model", "gpu", "metric")
ADDED = ("predicted", "low_90", "high_90", "fits_memory", "reason")
ROWS_AT_ONCE = 2000
MOST_CELL_CHARACTERS = 1_000_000
SHOWN = 6  # significant digits
NO_ANSWER = "no prediction: "


def predict_file(rows: Path, output: Path, catalogue: Catalogue | None = None) -> int:
    """Writes `output` in one step, once all of `rows` was read; returns how many rows there were. Names are those of
    the catalogue, the shipped one unless another is given.

    Raises:
        BadInput: the file is not such a table.
    """
    if output.exists() and rows.exists() and output.samefile(rows):
        raise BadInput("output", f"{output} is the input as well; name another file")
    if not output.parent.is_dir():
        raise BadInput("output", f"{output.parent} is no folder; make it first")
    counted = _Counted()
    try:
        with rows.open(encoding="utf-8-sig", newline="") as file:
            write_blocks(output, _blocks(_table(file, rows, counted, catalogue)))
    except FileNotFoundError:
        raise BadInput("missing", f"{rows} does not exist; name a CSV file with the columns {_columns()}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise BadInput("unreadable", f"{rows} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput("encoding", f"{rows} is not UTF-8; save it as such, or run iconv -t UTF-8 over it") from None
    except csv.Error as error:
        raise BadInput("csv", f"{rows}, near line {counted.line}: {error}; save it as plain CSV with commas") from None
    return counted.rows


class _Counted:
    rows = 0
    line = 1


def _table(file: io.TextIOBase, rows: Path, counted: _Counted, catalogue: Catalogue | None) -> Iterator[list[str]]:
    """The output's rows, its header first."""
    csv.field_size_limit(MOST_CELL_CHARACTERS)
    reader = csv.reader(file, strict=True)
    header = next(reader, None)
    _check(header, rows)
    assert header is not None
    kept = [place for place, name in enumerate(header) if name not in ADDED]
    yield [*(header[place] for place in kept), *ADDED]
    while batch := list(islice(reader, ROWS_AT_ONCE)):
        counted.line = reader.line_num
        filled = [cells for cells in batch if cells]  # a blank line is no row
        counted.rows += len(filled)
        for cells, told in zip(filled, _answers(header, filled, catalogue), strict=True):
            yield [*(cells[place] if place < len(cells) else "" for place in kept), *_told(told)]


def _check(header: list[str] | None, rows: Path) -> None:
    if not header:
        raise BadInput("empty", f"{rows} has no header; its first line names its columns, such as {_columns()}")
    if missing := [name for name in NEEDED if name not in header]:
        raise BadInput(
            "columns",
            f"{rows} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(header)}",
        )
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise BadInput("columns", f"{rows} has two columns named {twice!r}; rename one")


def _answers(header: list[str], batch: list[list[str]], catalogue: Catalogue | None) -> list[Prediction | str]:
    """Of each row its prediction, or why it has none."""
    ragged = [_ragged(header, cells) for cells in batch]
    rows = [dict(zip(header, cells, strict=False)) for cells, reason in zip(batch, ragged, strict=True) if not reason]
    told = iter(_predicted(rows, catalogue))
    return [reason or next(told) for reason in ragged]


def _ragged(header: list[str], cells: list[str]) -> str:
    if len(cells) == len(header):
        return ""
    return f"{NO_ANSWER}the row has {len(cells)} cells, the header {len(header)}"


# What a row makes infinite or undefined is told as no prediction, not as a warning.
@np.errstate(all="ignore")
def _predicted(rows: Sequence[Mapping[str, str]], catalogue: Catalogue | None) -> list[Prediction | str]:
    try:
        return list(predict_all(rows, catalogue=catalogue))
    except (ArithmeticError, LookupError, ValueError):
        return [_alone(row, catalogue) for row in rows]  # one of them is to blame; the others have their answers


def _alone(row: Mapping[str, str], catalogue: Catalogue | None) -> Prediction | str:
    try:
        return predict(row, catalogue=catalogue)
    except (ArithmeticError, LookupError, ValueError) as error:
        return f"{NO_ANSWER}{type(error).__name__}: {error}"


def _told(told: Prediction | str) -> list[str]:
    if isinstance(told, str):
        return ["", "", "", "", " ".join(told.split())]
    fits = "" if told.fits_memory is None else str(told.fits_memory).lower()
    figures = [_figure(value) for value in (told.predicted, told.low_90, told.high_90)]
    return [*figures, fits, " ".join(told.reason.split())]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.{SHOWN}g}"


def _blocks(table: Iterator[list[str]]) -> Iterator[bytes]:
    while part := list(islice(table, ROWS_AT_ONCE)):
        sheet = io.StringIO()
        csv.writer(sheet, lineterminator="\n").writerows(part)
        yield sheet.getvalue().encode("utf-8", errors="strict")


def _columns() -> str:
    return f"{', '.join(NEEDED)}, isl, osl"
