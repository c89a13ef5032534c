"""The keys of the job file as a Markdown table, from the code that checks them.

python -m serving.key_table docs/job-file.md     puts it between the page's two marks
"""

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from serving.config import Job, Section

BEGINS, ENDS = "<!-- keys -->\n", "<!-- end of keys -->\n"
HEADING = "| key | values | default | meaning |\n|---|---|---|---|\n"
SAID = " Default: "
KINDS = {"bool": "`true`, `false`", "int": "whole number", "float": "number", "Decimal": "number", "str": "text"}


def table() -> str:
    return HEADING + "".join(_lines())


def within(page: str) -> str:
    """The page with the table between its marks."""
    before, after = page.split(BEGINS)[0], page.split(ENDS)[1]
    return f"{before}{BEGINS}{table()}{ENDS}{after}"


def _lines() -> Iterator[str]:
    for section, holder in Job.model_fields.items():
        kind = holder.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for name, field in kind.model_fields.items():
            meaning, _, later = " ".join((field.description or "").split()).partition(SAID)
            default = later.removesuffix(".") or _default(field)
            cells = (f"`{section}.{name}`", _values(field.annotation, field), default, meaning)
            yield f"| {' | '.join(cells)} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.default
    if value is None or value == "" or value == {} or value == []:
        return "none"
    return f"`{json.dumps(value)}`"


def _values(kind: Any, field: FieldInfo | None = None) -> str:
    if get_origin(kind) in (Union, UnionType):
        [kind] = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{value}"`' for value in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return f"list of {_values(get_args(kind)[0])}s"
    if get_origin(kind) is dict:
        return "table"
    if issubclass(kind, StrEnum):
        return ", ".join(f'`"{value}"`' for value in kind)
    return KINDS[kind.__name__] + _bounds(field)


def _bounds(field: FieldInfo | None) -> str:
    """From the bounds that the field is checked against."""
    told = {
        name: getattr(bound, name)
        for bound in (field.metadata if field else ())
        for name in ("ge", "gt", "le", "lt")
        if getattr(bound, name, None) is not None
    }
    words = {"ge": "from", "gt": "over", "le": "to", "lt": "under"}
    return "".join(f", {words[name]} {bound}" for name, bound in told.items() if abs(bound) < 2**62)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(within(page.read_text(encoding="utf-8")), encoding="utf-8")
