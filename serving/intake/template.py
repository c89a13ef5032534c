"""Prompt templates over columns: `{{name}}` and nothing else, so that a template can neither loop nor reach code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.intake.shown import listed, shown

PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class BadTemplate(ValueError):
    """The template is not of the `{{column}}` kind, or a row lacks one of its columns."""


@dataclass(frozen=True, slots=True)
class Template:
    text: str
    needs_column: bool = True  # a template of prompts without a column would ask the same thing of every row

    def __post_init__(self) -> None:
        if "{%" in self.text or "{#" in self.text:
            raise BadTemplate(f"template {self.text[:80]!r}: only {{{{column}}}} is known, not statements or comments")
        if self.needs_column and not self.columns:
            raise BadTemplate(f"template {self.text[:80]!r} names no column; write one as {{{{column}}}}")
        if "{{" in PLACE.sub("", self.text) or "}}" in PLACE.sub("", self.text):
            raise BadTemplate(f"template {self.text[:80]!r} has a double brace that is not closed or not opened")
        if "" in self.columns:
            raise BadTemplate(f"template {self.text[:80]!r} has an empty {{{{}}}}; name a column in it")

    @property
    def columns(self) -> list[str]:
        return PLACE.findall(self.text)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The template with each column's value in its place; values are never read as templates again."""
        return PLACE.sub(lambda place: self._value(row, place[1]), self.text)

    def _value(self, row: Mapping[str, Any], column: str) -> str:
        if column not in row:
            raise BadTemplate(f"column {shown(column)} is missing; this row has: {listed(set(row), 200) or 'none'}")
        value = row[column]
        if value is None or isinstance(value, (dict, list, bytes)):
            kind = "empty" if value is None else "bytes" if isinstance(value, bytes) else "nested"
            raise BadTemplate(f"column {shown(column)} is {kind}; it must be plain")
        return str(value)
