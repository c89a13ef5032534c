"""Nothing that a dataset, a server or a model says drives a terminal or a spreadsheet."""

import csv
import io
import unicodedata
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.costs import _cell
from flows.terminal import printable

TEXTS = st.text(st.characters(codec="utf-8"), max_size=24)
STARTS = ("=", "+", "-", "@")


@given(TEXTS)
def test_a_printed_text_has_no_control_format_or_separator_character(text: str) -> None:
    categories = {unicodedata.category(character) for character in printable(text)}
    assert categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} == set()


def test_every_c0_and_c1_character_is_escaped() -> None:
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        assert chr(code) not in printable(f"a{chr(code)}b")


@given(TEXTS)
def test_text_that_was_escaped_can_be_told_from_text_that_was_not(text: str) -> None:
    if text.isprintable():
        assert printable(text) == text


@settings(max_examples=300)
@given(
    st.sampled_from(["", " ", "\t", "\r", "\n", "\u00a0", "\u3000", "\ufeff"]), st.sampled_from("=+-@＝＋－＠"), TEXTS
)
def test_no_cell_of_a_spreadsheet_begins_like_a_formula(space: str, start: str, text: str) -> None:
    sheet = io.StringIO()
    csv.writer(sheet, lineterminator="\n").writerow([_cell(space + start + text)])
    [[cell]] = csv.reader(io.StringIO(sheet.getvalue()))
    plain = unicodedata.normalize("NFKC", cell).lstrip()
    assert not plain.startswith(STARTS)
    assert not plain.startswith(("\t", "\r"))


def test_a_number_is_left_a_number() -> None:
    assert [_cell(value) for value in (-1, -0.5, 3)] == [-1, -0.5, 3]


def test_there_is_no_report_in_html() -> None:
    """If one is added, it needs escaping and a content policy of its own."""
    source = "".join(file.read_text() for file in (Path(__file__).parents[2] / "flows").glob("*.py"))
    assert "<html" not in source.lower()
