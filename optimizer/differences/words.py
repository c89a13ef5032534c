"""The words of a text, alike however they are written."""

import re
from functools import lru_cache

KEPT_TEXTS = 4096  # of which the findings are remembered: a text is compared with all that lie near it
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@lru_cache(KEPT_TEXTS)
def words(text: str) -> tuple[str, ...]:
    return tuple(word.lower().replace("’", "'") for word in WORD.findall(text))
