"""What of a text is no prose: formulae, code, patterns, operators. There every character counts, and its case."""

import re
import unicodedata
from functools import lru_cache

from optimizer.differences.words import KEPT_TEXTS

SPAN = re.compile(r"```.*?```|(?<![\w.])[\w.]+\([^)]*\)", re.DOTALL)  # spaces in these count too
NUMBER = re.compile(r"[-−]?(?:[A-Z]{0,3}[$€£¥₹₩])?[-−]?\d[\d.,:/]*(?:[^\W\d_]{1,5}|%|°[CF]?|[€£¥$₹₩])?")
NUMBER_WORD = re.compile(r"\d+(?:[-‐][^\W\d_]+)+|[^\W\d_]{2,}[-‐]\d+")  # 14-year-old, COVID-19
ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]?")
DASH = re.compile(r"[-–—−]+")
OPERAND = re.compile(r"\W*(?:\d[\d.,]*|[^\W\d_])\W*")
NOT_PROSE = re.compile(
    r"[{}\[\]<>=+*^|\\/@#&~_$%`]"
    r"|(?<=\w)[.:!?(](?=\w)|::"  # os.path, f(x, std::map
    r"|^[.:!?](?=\w)|^[-−]+(?=[^\W\d_])"  # .NET, :wq, !ready, -rf
    r"|[-−]$|\d[-−]\d|\b[^\W\d_][-−]\d"  # OH-, i--, 5-3, x-5
    r"|[^\W\dA-Z_][A-Z]|[^\W\d_]\d"  # pH, NaCl, getUser, H2O
)
PLAIN = "°™®©"  # signs that prose has


@lru_cache(KEPT_TEXTS)
def symbols(text: str) -> tuple[str, ...]:
    """Each span that is no prose, in the order of the text, but for the sentence's own punctuation around it."""
    return (*SPAN.findall(text), *_chunks(text.replace("–", "-")))


def _chunks(text: str) -> list[str]:
    chunks = text.split()
    found: list[str] = []
    for place, chunk in enumerate(chunks):
        span = chunk.lstrip("(\"'“‘«¿¡").rstrip(")\"'”’»,;")
        core = span.rstrip(".?!:…")
        if DASH.fullmatch(chunk) or span == "%":
            if _between_operands(chunks, place):
                found.append(span)
        elif _no_prose(core) or re.search(r"\d!+$", span):
            found.append(core if place == len(chunks) - 1 and not span.endswith("!") else span)
    return found


def _between_operands(chunks: list[str], place: int) -> bool:
    around = chunks[max(0, place - 1) : place] + chunks[place + 1 : place + 2]
    return len(around) == 2 and all(OPERAND.fullmatch(chunk) for chunk in around)


def _no_prose(core: str) -> bool:
    if core.isascii() and core.isalpha() and (core.islower() or core.istitle()):  # most words, and quickly seen
        return False
    if NUMBER.fullmatch(core) or NUMBER_WORD.fullmatch(core) or ABBREVIATION.fullmatch(core):
        return False
    return NOT_PROSE.search(core) is not None or any(
        unicodedata.category(character)[0] == "S" for character in core if character > "\x7f" and character not in PLAIN
    )
