"""No figure without where it is from: tables name script and rows, constants are fitted, numbers are explained."""

import ast
import json
import re
from pathlib import Path

import pytest

from optimizer.planner.calibration import NAMES, shipped

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "optimizer" / "planner"
TABLES = sorted(file.name for file in PACKAGE.iterdir() if file.suffix in {".toml", ".json"})
MODULES = sorted(file.name for file in PACKAGE.glob("*.py"))


def said_of(table: str, text: str) -> str:
    if table.endswith(".json"):
        return str(json.loads(text).get("source", ""))
    return " ".join(line.removeprefix("#").strip() for line in text.splitlines()[:2] if line.startswith("#"))


def has_a_source(said: str) -> bool:
    written = re.search(r"Written by (?:`python )?(bench/\w+\.py)", said)
    return bool(written and (ROOT / written[1]).exists() and re.search(r"from \w+\.csv|measured them", said))


def unexplained(source: str) -> list[str]:
    """Numbers of a module that have no comment on their line, nor on the line above their block."""
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if not isinstance(node.value.value, int | float):
            continue
        above = node.lineno - 2
        while above >= 0 and re.match(r"[A-Z_0-9, ]+ = ", lines[above]) and "#" not in lines[above]:
            above -= 1
        if "#" not in lines[node.lineno - 1] and not lines[above].lstrip().startswith("#"):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_by_which_script_from_which_rows_it_was_written(table: str) -> None:
    assert has_a_source(said_of(table, (PACKAGE / table).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "said", ["", "Written by hand.", "Written by bench/no_such.py from rows.csv", "Written by bench/planner.py"]
)
def test_a_table_that_does_not_is_found(said: str) -> None:
    assert not has_a_source(said_of("a.toml", f"# {said}\n[values]\na = 1.0\n"))
    assert not has_a_source(said_of("a.json", json.dumps({"source": said, "known": []})))


def test_every_constant_is_fitted_to_rows() -> None:
    fitted = {name for deviations in shipped().deviations.values() for name in deviations}
    assert fitted == set(NAMES)


@pytest.mark.parametrize("module", MODULES)
def test_every_number_is_explained(module: str) -> None:
    assert unexplained((PACKAGE / module).read_text(encoding="utf-8")) == []


def test_a_number_that_is_not_is_found() -> None:
    assert unexplained("A = 1.5  # of what\n\nB = 2.5\n") == ["B = 2.5"]
    assert unexplained("# Of both.\nA = 1.5\nB = 2.5\n") == []
