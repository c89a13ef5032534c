"""Files and ids as the tests of intake need them."""

from pathlib import Path

from serving.intake.files import InputFile, open_inputs
from serving.intake.formats.raw import RawRow, Reading
from serving.intake.rows import read_rows


def opened(file: Path | str) -> InputFile:
    [found] = open_inputs(str(file), Path.cwd())
    return found


def rows_of(file: Path | str, reading: Reading | None = None) -> list[RawRow]:
    return list(read_rows(opened(file), reading or Reading()))


class NoIds:
    """For tests that are not about ids."""

    def note(self, row: int, custom_id: str, place: str) -> None:
        pass
