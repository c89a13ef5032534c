"""The one JSON parser that text from outside goes through: what two parsers could read differently is refused."""

import json
import re
from typing import Any

from serving.intake.shown import shown

MAX_LINE_BYTES = 8 * 2**20
MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1
HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # in raw UTF-8 there is none
MAX_DIGITS = 20  # with the sign; int() itself is slow, or refuses, for very many


class NotStrictJson(ValueError):
    """A line is not JSON in the strict sense. `code` tells the kind of fault."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def parse_line(line: bytes) -> Any:
    """The value of one line.

    Raises:
        NotStrictJson: too long, not UTF-8, not JSON, a duplicate key, NaN or Infinity, an integer beyond 64 bits, a
            lone surrogate, or nested deeper than MAX_DEPTH.
    """
    if len(line) > MAX_LINE_BYTES:
        raise NotStrictJson(
            "E_LINE_TOO_LONG",
            f"line of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed, so shorten or split it",
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrictJson("E_UTF8", f"not UTF-8 at byte {error.start} of the line; save it as UTF-8") from None
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise NotStrictJson("E_JSON", f"not JSON at column {error.colno}: {_why(text, error)}") from None
    except RecursionError:
        raise _too_deep() from None
    except MemoryError:
        reason = "holds more values than fit the memory of admission; split it"
        raise NotStrictJson("E_LINE_TOO_LONG", reason) from None
    # Most lines can hold neither, and to go through a value costs as much as to read it.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _must_not_be_too_deep(value)
    if HALF_A_CHARACTER.search(text):
        _must_hold_whole_characters(value)
    return value


def _why(text: str, error: json.JSONDecodeError) -> str:
    if text.startswith("\ufeff"):
        return "a byte order mark; only the first line of a file may begin with one"
    if error.msg == "Extra data":
        return "Extra data after the value; write one value a line"
    return f"{error.msg}; write the line as strict JSON"


def _too_deep() -> NotStrictJson:
    return NotStrictJson("E_DEPTH", f"nested deeper than {MAX_DEPTH} levels; flatten it")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrictJson("E_DUPKEY", f"key {shown(twice)} stands twice in one object; keep one")
    return value


def _no_constant(name: str) -> float:
    raise NotStrictJson("E_NUMBER", f"{name} is not a JSON number; write a finite one, or null")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise NotStrictJson("E_NUMBER", f"{text[:80]} is too large for a 64-bit float; write a smaller one, or text")
    return value


def _in_range(text: str) -> int:
    value = int(text) if len(text) <= MAX_DIGITS else None
    if value is None or abs(value) > MAX_INTEGER:
        raise NotStrictJson("E_NUMBER", f"integer {text[:80]} is beyond 64 bits; write it as text")
    return value


def _must_not_be_too_deep(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [inner.values() if isinstance(inner, dict) else inner for inner in level]
        level = [inner for container in containers for inner in container if isinstance(inner, (dict, list))]
        if not level:
            return
    raise _too_deep()


def _must_hold_whole_characters(value: Any) -> None:
    if isinstance(value, str):
        _must_be_whole(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _must_be_whole(key)
            _must_hold_whole_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            _must_hold_whole_characters(inner)


def _must_be_whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"a lone surrogate (half of a character) at character {error.start} of a string; write both halves"
        raise NotStrictJson("E_SURROGATE", reason) from None


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_in_range
)
