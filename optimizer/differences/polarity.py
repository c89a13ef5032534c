"""Words that turn an answer round, limit it, or say of whom it holds, and words that negate each other."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from optimizer.differences.words import words

DENYING = set(
    "not no never none nobody nothing neither nor without unless except lack lacks fail fails false untrue "
    "more less fewer most least hardly barely scarcely rarely seldom almost nearly "
    "only instead alone non anti ex former pseudo fake free "
    "illegal unsafe impossible".split()
)
# Each has its opposite, which in its place asks for something else. By itself one only says more.
OPPOSITE = set(
    "on off enable disable enabled disabled open close start stop begin end add remove increase decrease rise fall "
    "greater smaller larger higher lower longer shorter older younger earlier later "
    "before after pre post above below over under inside outside last next previous maximum minimum max min "
    "best worst better worse good bad positive negative minus plus "
    "true love hate like dislike win lose buy sell import export include exclude allow deny accept reject "
    "always sometimes all any some every both either left right north south east west up down out "
    "legal safe possible agree disagree same different hot cold new old young "
    "cause effect causes effects antonym synonym opposite".split()
)
# Negations of other languages, but for those that are words of English ("sin").
DENYING |= set(
    "nicht kein keine keinen nie ohne pas jamais sans aucun aucune nunca jamás ningún ninguna não sem nenhum mai senza "
    "niet geen nooit zonder ikke inte aldrig uden utan не нет без никогда".split()
)
SAME = {"cannot": "not", "solely": "only", "merely": "only", "exclusively": "only"}
# "I just want to know" asks for no less; "on just rice" is on rice only.
SOFTENED_BY = {None, "i", "we", "you", "can", "could", "please", "i'm", "i'd", "we're"}
# Words with which a speaker takes back what was just said.
MENDING = re.compile(
    r"\b(?:no|or)\s*,?\s+(?:wait|sorry|rather|no|actually|make that|i mean|i meant|um|uh|er)\b"
    r"|\b(?:i mean|i meant|make that|scratch that|oops|er|uh|um|sorry|wait)\b",
    re.IGNORECASE,
)
# A speaker who mends what was just said: before such words "no" denies nothing (editing terms: Shriberg 1994).
MENDED = re.compile(
    r"\b(?:or|oh|er|um|uh)?\s*\bno\b[\s,]+(?=(?:wait|sorry|rather|actually|oops|make|i|er|um|uh|not|the|a|an|in|of|on|at|to|"
    r"from|by|with|for|about|which|who|whom|whose|what|when|where|why|how|is|are|was|were|do|does|did)\b)",
    re.IGNORECASE,
)
NEGATING = "un in im ir il dis non mis de a an anti counter".split()


def opposed(left: str, right: str) -> bool:
    """True if one text says or limits what the other does not, or negates one of its words."""
    left_words, right_words = (words(MENDED.sub(" ", text)) for text in (left, right))
    if sorted(_denying(left_words)) != sorted(_denying(right_words)):
        return True
    one, other = (Counter(word for word in some if word in OPPOSITE) for some in (left_words, right_words))
    said, instead = sorted((one - other, other - one), key=Counter.total)
    if said or instead.total() > 1:  # an opposite in its place, or two that are told apart
        return True
    only_left, only_right = set(left_words) - set(right_words), set(right_words) - set(left_words)
    return _negates(only_left, only_right) or _negates(only_right, only_left)


def _denying(found: Sequence[str]) -> Iterator[str]:
    for before, word in zip([None, *found], found, strict=False):
        if word.endswith("n't"):
            yield "not"
        elif word == "just":
            if before not in SOFTENED_BY:
                yield "only"
        elif word in {"few", "little"}:
            if before != "a":  # few people do: most do not; a few people do: some do
                yield word
        elif (meant := SAME.get(word, word)) in DENYING:
            yield meant


def _negates(some: set[str], others: set[str]) -> bool:
    return any(negation in some for word in others for negation in _negations(word))


def _negations(word: str) -> Iterator[str]:
    yield from (prefix + word for prefix in NEGATING)
    yield word.removesuffix("ful") + "less"
