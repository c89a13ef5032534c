"""The raw figures of a measurement, added to a CSV file with where and when they were taken."""

import csv
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from serving.engines.machine import Machine


def taken_on(machine: Machine) -> dict[str, object]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": ", ".join(gpu.name for gpu in machine.gpus) or machine.cpu,
        "cores": len(machine.cores),
        "python": platform.python_version(),
    }


def where(machine: Machine) -> str:
    """The same in words, as a figure is quoted with."""
    taken = taken_on(machine)
    return f"{taken['machine']}, {taken['cores']} cores, {taken['date']}"


def add_rows(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """All of the same names, which head the file where it is new."""
    file.parent.mkdir(exist_ok=True)
    fresh = not file.exists()
    with file.open("a", newline="") as stream:
        sheet = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        if fresh:
            sheet.writeheader()
        sheet.writerows(rows)
