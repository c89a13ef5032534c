"""What is seen of a pair of near-duplicates before any answer is: the features that audits are learned from."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from optimizer.differences.wording import GENERIC, TOKEN, apart
from optimizer.vetoes import names_of

BEGINNING_WORDS = 5
VARYING = re.compile(r"\d|[A-Z]|^[\"'`“]")  # what a template fills in: numbers, names, quoted text


class Likeness(NamedTuple):
    similarity: float  # cosine
    crowd: float  # log of how many rows are about as near: in a template's rows many are, and few of them mean the same
    words_apart: float  # words of content that only one of them has
    generic_apart: float  # and of those that questions are made of
    names_apart: float
    one_sided: float  # 1 where only one of them has words of its own
    in_common: float  # share of the longer one's words
    length: float  # log of the longer one's words


def likeness(left: str, right: str, similarity: float, crowd: int) -> Likeness:
    """`crowd` is how many rows are about as near to one of them as the other is, that one counted."""
    found = apart(left, right)
    own = [*found.left, *found.right]
    generic = sum(word in GENERIC for word in own)
    words = max(len(TOKEN.findall(left)), len(TOKEN.findall(right)), 1)
    return Likeness(
        similarity,
        math.log(max(crowd, 1)),
        len(own) - generic,
        generic,
        abs(len(names_of(left, right)) - len(names_of(right, left))),
        float(not found.left or not found.right),
        found.shared / words,
        math.log(words),
    )


def beginning(text: str) -> str:
    """How a text begins, but for what a template fills in: rows of one template begin alike."""
    return " ".join("_" if VARYING.search(word) else word.lower() for word in _words(text)[:BEGINNING_WORDS])


def _words(text: str) -> Sequence[str]:
    return text.split(maxsplit=BEGINNING_WORDS)
