"""Whether two answers to one request say the same. Pure: each judge sees two texts and nothing else."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NoReturn

from optimizer.chosen_letter import chosen_letter
from optimizer.last_number import last_number

Agree = Callable[[str, str], bool]

EDGE = ".,;:!?\"'`*_()[] "
EDGE_BEFORE = re.compile(rf"(?:(?!\.\d)[{re.escape(EDGE)}])*")  # .5 is not 5


def exact(one: str, other: str) -> bool:
    return one == other


def normalised(one: str, other: str) -> bool:
    """Equal but for case, accents' encoding, runs of white space, and punctuation around the whole."""
    return _plain(one) == _plain(other)


def numeric(one: str, other: str) -> bool:
    """The last numbers of both are equal as values. A text without one that is clear agrees with none but its equal."""
    left, right = last_number(one), last_number(other)
    if left is None or right is None:
        return left is right and normalised(one, other)
    return left.agrees(right)


def multiple_choice(one: str, other: str) -> bool:
    """Both name the same letter. A text that does not clearly name one agrees with none but its equal."""
    left, right = chosen_letter(one), chosen_letter(other)
    if left is None or right is None:
        return left is right and normalised(one, other)
    return left == right


def json_equal(one: str, other: str) -> bool:
    """Equal as JSON values, whatever the order of keys. A text that is not JSON agrees with none but its equal."""
    if one == other:
        return True
    try:
        return _same(_json(one), _json(other))
    except (ValueError, ArithmeticError, RecursionError):
        return False


JUDGES: Mapping[str, Agree] = {
    "exact": exact,
    "normalised": normalised,
    "numeric": numeric,
    "multiple-choice": multiple_choice,
    "json-equal": json_equal,
}


def _plain(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(EDGE)
    return EDGE_BEFORE.sub("", plain, count=1)


def _json(text: str) -> object:
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_unambiguous)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that stands twice means one thing to one parser and another to the next")
    return found


def _same(left: object, right: object) -> bool:
    """JSON's true is not 1, which Python takes it for."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right
