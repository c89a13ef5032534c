"""Why two texts that are near in meaning must not share an answer. Vetoes are necessary, not sufficient, for reuse.

Similarity cannot see what they look for: "turn on" / "turn off" dark mode lie at cosine 0.93, 100 USD -> EUR / EUR -> USD
at 0.98, nearer than most true paraphrases (MiniLM, measured 2026-11-23). Each veto compares one thing in order.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

# A number with its unit or currency, so that 5 kg and 5 mg, or $5 and 5 EUR, differ.
NUMBER = re.compile(
    r"[$€£¥]?\s?\d[\d.,:/]*\d|[$€£¥]?\s?\d"
    r"|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|first|second|third)\b",
    re.IGNORECASE,
)
UNIT_AFTER = re.compile(r"\s?(%|°?[CFK]\b|[a-zµ]{1,4}\b)", re.IGNORECASE)
QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|`[^`]+`|(?<!\w)'[^']+'(?!\w)")
CODE = re.compile(r"```.*?```|[\w.]+\([^)]*\)|[{}\[\]<>=+*^|\\/]+|\b\w+_\w+\b|\b[A-Z][a-z]?\d\w*", re.DOTALL)
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
NAME = re.compile(r"\b[A-Z][\w'’-]*")

POLARITY = set(
    "not no never none nobody nothing neither nor without cannot unless except lack lacks fail fails false untrue "
    "on off enable disable enabled disabled open close start stop begin end add remove increase decrease rise fall "
    "more less most least greater smaller larger higher lower longer shorter older younger earlier later before after "
    "above below over under first last maximum minimum max min best worst better worse good bad positive negative "
    "true love hate like dislike win lose buy sell import export import include exclude allow deny accept reject "
    "always sometimes all any some every only both either left right north south east west up down in out "
    "legal illegal safe unsafe possible impossible agree disagree same different hot cold new old young "
    "cause effect causes effects antonym synonym opposite".split()
)
FRESHNESS = set("today tonight tomorrow yesterday now currently current latest recent recently newest".split())
SMALL = set(
    "a an the of to in on at by for from with and or as is are was were be been being do does did has have had it its "
    "this that these those what which who whom whose when where why how i you he she we they me my your his her our "
    "their would could should can will may might must shall there here please tell if so than then just about into "
    "no um er uh sorry rather actually wait mean make instead".split()
)


def veto(left: str, right: str) -> str | None:
    """The first reason why these two texts may not share an answer, or None where no veto holds."""
    for name, holds in VETOES.items():
        if holds(left, right):
            return name
    return None


def _differ(find: Callable[[str], list[str]]) -> Callable[[str, str], bool]:
    return lambda left, right: find(left) != find(right)


def _numbers(text: str) -> list[str]:
    return [_number(text, match) for match in NUMBER.finditer(text)]


def _number(text: str, match: re.Match[str]) -> str:
    unit = UNIT_AFTER.match(text, match.end())
    return match[0].strip().lower() + (unit[1].lower() if unit else "")


def _quoted(text: str) -> list[str]:
    return [span[1:-1] for span in QUOTED.findall(text)]


def _code(text: str) -> list[str]:
    return CODE.findall(text)


def _words(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


def _polarity(text: str) -> list[str]:
    """Words that turn an answer round. Not "in", which is everywhere, nor "no", which also takes words back."""
    return sorted(
        "not" if word.endswith("n't") else word
        for word in _words(text)
        if word.endswith("n't") or (word in POLARITY and word not in {"in", "no"})
    )


def _names(text: str) -> list[str]:
    """Capitalised words in order, but for a sentence's first word where that is a small one."""
    found = [match for match in NAME.finditer(text) if match[0].lower() not in SMALL]
    return [match[0].lower().removesuffix("'s").removesuffix("’s") for match in found]


# What a speaker says on taking something back: "in 1999, no wait, in 1989".
REPAIR = set("no uh um er erm sorry rather actually wait mean oops".split())


def _unshared_content(left: str, right: str) -> bool:
    """True if the texts differ in a word that carries content, unless the speaker takes that word back.

    Templated prompts differ in one slot, and any slot can decide the answer ("expanding" / "shrinking", "behind" /
    "through"); paraphrases that survive this differ in small words, in order, or by a correction.
    """
    left_words, right_words = (_tokens(text) for text in (left, right))
    blocks = SequenceMatcher(None, left_words, right_words, autojunk=False).get_opcodes()
    lost = [left_words[begin:end] for kind, begin, end, _, _ in blocks if kind != "equal"]
    gained = [right_words[begin:end] for kind, _, _, begin, end in blocks if kind != "equal"]
    moved = Counter(_content(lost)) & Counter(_content(gained))
    return any((Counter(_content([span])) - moved) and not REPAIR.intersection(span) for span in (*lost, *gained))


def _tokens(text: str) -> list[str]:
    return [token.lower().replace("’", "'").removesuffix("'s") for token in re.findall(r"\d[\d.,]*|[^\W\d_]+(?:['’]\w+)?", text)]


def _content(spans: list[list[str]]) -> list[str]:
    return [word for span in spans for word in span if word not in SMALL]


def _freshness(text: str) -> list[str]:
    return [word for word in _words(text) if word in FRESHNESS]


def _scripts(text: str) -> list[str]:
    """The writing systems of a text: LATIN, CYRILLIC, CJK, ..."""
    letters = {character for character in text if character.isalpha()}
    return sorted({unicodedata.name(letter, "OTHER").split(" ")[0] for letter in letters})


def _swapped(left: str, right: str) -> bool:
    """The same content words in another order: "from A to B" against "from B to A"."""
    left_words, right_words = ([word for word in _words(text) if word not in SMALL] for text in (left, right))
    return left_words != right_words and Counter(left_words) == Counter(right_words)


def _fresh(left: str, right: str) -> bool:
    return bool(_freshness(left) or _freshness(right))


VETOES: dict[str, Callable[[str, str], bool]] = {
    "numbers": _differ(_numbers),
    "quoted text": _differ(_quoted),
    "code or formula": _differ(_code),
    "script": _differ(_scripts),
    "polarity": _differ(_polarity),
    "names": _differ(_names),
    "argument order": _swapped,
    "content words": _unshared_content,
    "freshness": _fresh,
}
