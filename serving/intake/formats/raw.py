"""What every format gives: rows as they stand in a file, each with its place, or why one cannot be read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from serving.intake.bad_row import BadRow

DECODED_AT_ANY_RATIO_BYTES = 16 * 2**20  # so little is no bomb, whatever it was packed into


class RawRow(Struct, frozen=True):
    """One row as it stands in the file, or why it cannot be read."""

    file: str
    line: int
    value: dict[str, Any] | None
    fault: BadRow | None = None
    all_text: bool = False  # True of a CSV row, whose cells have no types


PASSED_OVER = RawRow("", 0, None)  # stands for a row that another process judges
Mine = Callable[[], bool]  # asked once for every row, in order: is it ours to judge?


def every_row() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Reading:
    """What the job file says about the reading of files."""

    delimiter: str = ","
    max_ratio: float = 200.0  # of decoded bytes to those of the file

    def decoded_bytes_at_most(self, size_bytes: int) -> int:
        return max(DECODED_AT_ANY_RATIO_BYTES, int(size_bytes * self.max_ratio))

    def too_much(self, size_bytes: int) -> str:
        most = self.decoded_bytes_at_most(size_bytes)
        return (
            f"its {size_bytes} bytes decode to more than {most}, which is over {self.max_ratio:g} times as many; "
            "if that is right, raise dataset.max_ratio"
        )
