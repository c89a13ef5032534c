"""Why two texts that are near in meaning must not share an answer. Vetoes are necessary, not sufficient, for reuse.

Similarity cannot see what they look for: "turn on" / "turn off" dark mode lie at cosine 0.93, 100 USD to EUR / EUR to
USD at 0.98, nearer than most true paraphrases (MiniLM, measured 2026-11-23). Each veto compares one thing in order.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from optimizer.differences.polarity import MENDING, opposed
from optimizer.differences.quantities import quantities, unit_of
from optimizer.differences.symbols import symbols
from optimizer.differences.tense import times
from optimizer.differences.word_order import in_another_voice, longest_common, reordered
from optimizer.differences.wording import ASKING, RELATIONS, SMALL, apart, content
from optimizer.differences.words import WORD, words

QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|`[^`]+`|(?<!\w)'[^']+'(?!\w)")
PLACED = RELATIONS | ASKING  # what these belong to moves with them
FRESHNESS = set("today tonight tomorrow yesterday now currently current latest recent recently newest".split())
NOT_NAMES = SMALL.union(
    ASKING,
    "i you he she we they me my your his her our their and or but if so as to from for with by at on about".split(),
    "into than can could should may might must shall let name give list find explain describe say write q".split(),
    "am was were did had would".split(),
)
# Begin an instruction; elsewhere a capital makes a name of them.
INSTRUCTIONS = set(
    "analyse analyze answer calculate classify compare compute convert correct create define discuss draft evaluate "
    "extract fix generate help identify imagine make outline provide recommend return rewrite set show sort suggest "
    "summarise summarize translate".split()
)
CAPITALISED = re.compile(r"\b[^\W\d_][\w'’-]*")
BEGINNING = re.compile(r"(?:^|[.!?:;\n])[\s\"'“‘(*-]{0,8}([^\W\d_])")
UNIT_PLACE = re.compile(r"(?:\d[\s-]?°?|degrees?\s)$")
CONTRACTED = re.compile(r"['’](?:s|m|re|ve|ll|d)$", re.IGNORECASE)


def veto(left: str, right: str) -> str | None:
    """The first reason why these two texts may not share an answer, or None where no veto holds."""
    return next((name for name, holds in VETOES.items() if holds(left, right)), None)


def _differ(find: Callable[[str], Sequence[str]]) -> Callable[[str, str], bool]:
    return lambda left, right: find(left) != find(right)


def _quoted(text: str) -> list[str]:
    return [span[1:-1] for span in QUOTED.findall(text)]


def _other_names(left: str, right: str) -> bool:
    """Other names, or in another order. Names that were said and taken back are no veto: an audit tells."""
    fewer, more = sorted((left, right), key=lambda text: len(names_of(text, right if text is left else left)))
    names, others = names_of(fewer, more), names_of(more, fewer)
    if not MENDING.search(more):
        return names != others
    return longest_common(names, others) < len(names)


def names_of(text: str, other: str) -> list[str]:
    """Capitalised words in order, but for those that begin a question, or a sentence where `other` has them small."""
    small = {word for word in WORD.findall(other) if word.islower()}
    begins = {match.start(1) for match in BEGINNING.finditer(text)}
    found: list[str] = []
    before = 0  # where the capitalised word before this one ended, which began no sentence
    for match in CAPITALISED.finditer(text):
        if not match[0][0].isupper() or match[0].lower().replace("’", "'").endswith("n't"):
            continue
        if UNIT_PLACE.search(text, max(0, match.start() - 8), match.start()) and unit_of(match[0]):
            continue  # the numbers look after it
        name, begun = CONTRACTED.sub("", match[0]), match.start() in begins
        the_first = name == "I" and before and match.start() == before + 1  # World War I
        before = 0 if begun else match.end()
        if the_first or not _is_no_name(name, begun, small):
            found.append(name if name.isupper() else name.lower())
    return found


def _is_no_name(name: str, begun: bool, small: set[str]) -> bool:
    lower = name.lower()
    if name.isupper() and len(name) > 1:  # IT, WHO, US
        return False
    return lower in NOT_NAMES or (begun and (lower in INSTRUCTIONS or lower in small))


def _replaced(left: str, right: str) -> bool:
    """True if each text has a word of content that the other lacks.

    Templated prompts differ in one slot, and any slot can decide the answer ("expanding" / "shrinking", "behind" /
    "through"). Words that only one of them has are no veto: an audit tells what they are worth.
    """
    return apart(left, right).replaced


def _freshness(text: str) -> list[str]:
    return [word for word in words(text) if word in FRESHNESS]


def _scripts(text: str) -> list[str]:
    """The writing systems of a text: LATIN, CYRILLIC, CJK, ..."""
    letters = {character for character in text if character.isalpha()}
    return sorted({unicodedata.name(letter, "OTHER").split(" ")[0] for letter in letters})


def _swapped(left: str, right: str) -> bool:
    """The same content words in another order: "from A to B" against "from B to A", or in another voice."""
    if in_another_voice(words(left), words(right)):
        return True
    left_words, right_words = (content(list(words(text))) for text in (left, right))
    if Counter(left_words) == Counter(right_words):
        return left_words != right_words
    return reordered(*([word for word in some if word not in PLACED] for some in (left_words, right_words)))


def _fresh(left: str, right: str) -> bool:
    return bool(_freshness(left) or _freshness(right))


VETOES: dict[str, Callable[[str, str], bool]] = {
    "numbers": _differ(quantities),
    "quoted text": _differ(_quoted),
    "code or formula": _differ(symbols),
    "script": _differ(_scripts),
    "polarity": opposed,
    "tense": _differ(times),
    "names": _other_names,
    "argument order": _swapped,
    "content words": _replaced,
    "freshness": _fresh,
}
