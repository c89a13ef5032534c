"""Whether two answers to one request say the same. Pure: each judge sees two texts and nothing else."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

Agree = Callable[[str, str], bool]

NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+−]?\.\d+")
# "B", "(b)", "B." or "B) Paris" at the start; or what follows "answer is" or "answer:".
CHOICE = re.compile(r"(?:answer\s*(?:is|:)\s*)\(?([a-z])\b\)?|^\W*([a-z])(?=\W|$)", re.IGNORECASE)
EDGE = " \t\n\r.,;:!?\"'`*_()[]"


def exact(one: str, other: str) -> bool:
    return one == other


def normalised(one: str, other: str) -> bool:
    """Equal but for case, accents' encoding, runs of white space, and punctuation around the whole."""
    return _plain(one) == _plain(other)


def numeric(one: str, other: str) -> bool:
    """The last numbers of both are equal as values. A text without a number agrees with none but its equal."""
    left, right = _last_number(one), _last_number(other)
    if left is None or right is None:
        return left is right and normalised(one, other)
    return left == right


def multiple_choice(one: str, other: str) -> bool:
    """Both name the same letter. A text that names none agrees with none but its equal."""
    left, right = _letter(one), _letter(other)
    if left is None or right is None:
        return left is right and normalised(one, other)
    return left == right


def json_equal(one: str, other: str) -> bool:
    """Equal as JSON values, whatever the order of keys. A text that is not JSON agrees with none but its equal."""
    try:
        left, right = (json.loads(text, parse_float=Decimal) for text in (one, other))
    except (ValueError, RecursionError):
        return one == other
    return _same(left, right)


JUDGES: Mapping[str, Agree] = {
    "exact": exact,
    "normalised": normalised,
    "numeric": numeric,
    "multiple-choice": multiple_choice,
    "json-equal": json_equal,
}


def agree(judge: str, answers: Sequence[str], reference: Sequence[str]) -> bool:
    """Of requests with several answers, each place is compared."""
    return len(answers) == len(reference) and all(map(JUDGES[judge], answers, reference))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).strip(EDGE)


def _last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None


def _letter(text: str) -> str | None:
    found = list(CHOICE.finditer(text.strip()))
    return None if not found else (found[-1][1] or found[-1][2]).upper()


def _same(left: object, right: object) -> bool:
    """JSON's true is not 1, which Python takes it for."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right
