"""Text for a terminal: what a dataset, a file name or a server brought along must not drive it."""

from collections.abc import Callable, Sequence
from typing import TextIO


def printable(text: str, keep: str = "") -> str:
    """`text` with every control and invisible character escaped, but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )


def in_columns(rows: Sequence[Sequence[str]], to_the_right: Sequence[bool] | None = None) -> list[str]:
    """Cells as lines, each column as wide as its widest cell; `to_the_right` says which columns are numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    right = to_the_right or [False] * len(widths)
    lines = (
        [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)] for row in rows
    )
    return ["  ".join(cells).rstrip() for cells in lines]


def in_place(stream: TextIO) -> Callable[[str], None]:
    """Shows one text after the other in the same place of a terminal; elsewhere below each other."""
    drawn = 0

    def show(text: str) -> None:
        nonlocal drawn
        if drawn and stream.isatty():
            stream.write(f"\x1b[{drawn}F\x1b[J")  # to the first line of the last text, and clear from there
        stream.write(f"{text}\n")
        stream.flush()
        drawn = text.count("\n") + 1

    return show
