"""Why two texts that are near in meaning must not share an answer. Vetoes are necessary, not sufficient, for reuse.

Similarity cannot see what they look for: "turn on" / "turn off" dark mode lie at cosine 0.93, 100 USD to EUR / EUR to
USD at 0.98, nearer than most true paraphrases (MiniLM, measured 2026-11-23). Each veto compares one thing in order.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

# A number with its unit or currency, so that 5 kg and 5 mg, or $5 and 5 EUR, differ.
NUMBER = re.compile(
    r"(?<![\w)])[-−]?[$€£¥]?\s?\d[\d.,:/]*\d|(?<![\w)])[-−]?[$€£¥]?\s?\d|\d+"
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
    "true love hate like dislike win lose buy sell import export include exclude allow deny accept reject "
    "always sometimes all any some every only both either left right north south east west up down out "
    "legal illegal safe unsafe possible impossible agree disagree same different hot cold new old young "
    "cause effect causes effects antonym synonym opposite".split()
)
FRESHNESS = set("today tonight tomorrow yesterday now currently current latest recent recently newest".split())
# Words that may be there or not without changing what is asked. Prepositions, pronouns, tenses, "and" and "or" are not
# among them: to Paris is not from Paris, who was is not who is.
SMALL = set(
    "a an the of in is are be being do does has have it its this that these those "
    "there here please tell then just um uh er".split()
)
ASKING = "what|which|who|whom|whose|when|where|why|how"
NOT_NAMES = SMALL.union(
    ASKING.split("|"),
    "i you he she we they me my your his her our their and or but if so as to from for with by at on about".split(),
    "into than can could should may might must shall let name give list find explain describe say write q".split(),
)
# A question that the speaker starts over: "How does, or actually, what does it do?" asks what follows the correction.
FALSE_START = re.compile(
    rf"^\s*(?:{ASKING})\b(?:\W+\w+){{0,3}}?\W+"
    r"(?:(?:or|no|wait|sorry|rather|actually|oops|um+|uh+|erm?|i\s+mean|make\s+that)\W+)+"
    rf"(?=(?:{ASKING})\b)",
    re.IGNORECASE,
)


def veto(left: str, right: str) -> str | None:
    """The first reason why these two texts may not share an answer, or None where no veto holds."""
    left, right = FALSE_START.sub("", left), FALSE_START.sub("", right)
    return next((name for name, holds in VETOES.items() if holds(left, right)), None)


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
    """Words that turn an answer round."""
    return sorted(
        "not" if word.endswith("n't") else word for word in _words(text) if word.endswith("n't") or word in POLARITY
    )


def _names(text: str) -> list[str]:
    """Capitalised words in order, but for those that begin a question and the like."""
    found = [re.sub(r"['’]s$", "", match[0]) for match in NAME.finditer(text)]
    return [name if name.isupper() else name.lower() for name in found if name.lower() not in NOT_NAMES]


def _unshared_content(left: str, right: str) -> bool:
    """True if the texts differ in a word that carries content.

    Templated prompts differ in one slot, and any slot can decide the answer ("expanding" / "shrinking", "behind" /
    "through"). What passes differs in small words, or in where a word stands.
    """
    left_words, right_words = (_tokens(text) for text in (left, right))
    blocks = SequenceMatcher(None, left_words, right_words, autojunk=False).get_opcodes()
    lost = [word for kind, begin, end, _, _ in blocks if kind != "equal" for word in left_words[begin:end]]
    gained = [word for kind, _, _, begin, end in blocks if kind != "equal" for word in right_words[begin:end]]
    return Counter(_content(lost)) != Counter(_content(gained))


TOKEN = re.compile(r"\d[\d.,]*|[^\W\d_]+(?:['’]\w+)?")


POLITE = {"could": "can"}


def _tokens(text: str) -> list[str]:
    words = (re.sub(r"['’]s$", "", token.lower()) for token in TOKEN.findall(text))
    return [POLITE.get(word, word) for word in words]


def _content(words: list[str]) -> list[str]:
    return [word for word in words if word not in SMALL]


def _freshness(text: str) -> list[str]:
    return [word for word in _words(text) if word in FRESHNESS]


def _scripts(text: str) -> list[str]:
    """The writing systems of a text: LATIN, CYRILLIC, CJK, ..."""
    letters = {character for character in text if character.isalpha()}
    return sorted({unicodedata.name(letter, "OTHER").split(" ")[0] for letter in letters})


def _swapped(left: str, right: str) -> bool:
    """The same content words in another order: "from A to B" against "from B to A"."""
    left_words, right_words = (_content(_words(text)) for text in (left, right))
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
