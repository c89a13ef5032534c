"""Words that turn an answer round, limit it, or say of whom it holds, and words that negate each other."""

from collections.abc import Iterator, Sequence

from optimizer.differences.words import words

POLARITY = set(
    "not no never none nobody nothing neither nor without unless except lack lacks fail fails false untrue "
    "hardly barely scarcely rarely seldom almost nearly only instead alone non anti ex former pseudo fake free "
    "on off enable disable enabled disabled open close start stop begin end add remove increase decrease rise fall "
    "more less fewer most least greater smaller larger higher lower longer shorter older younger earlier later "
    "before after pre post above below over under inside outside last next previous maximum minimum max min "
    "best worst better worse good bad positive negative minus plus "
    "true love hate like dislike win lose buy sell import export include exclude allow deny accept reject "
    "always sometimes all any some every both either left right north south east west up down out "
    "legal illegal safe unsafe possible impossible agree disagree same different hot cold new old young "
    "cause effect causes effects antonym synonym opposite".split()
)
# Negations of other languages, but for those that are words of English ("sin").
POLARITY |= set(
    "nicht kein keine keinen nie ohne pas jamais sans aucun aucune nunca jamás ningún ninguna não sem nenhum mai senza "
    "niet geen nooit zonder ikke inte aldrig uden utan не нет без никогда".split()
)
SAME = {"cannot": "not", "solely": "only", "merely": "only", "exclusively": "only"}
# "I just want to know" asks for no less; "on just rice" is on rice only.
SOFTENED_BY = {None, "i", "we", "you", "can", "could", "please", "i'm", "i'd", "we're"}
NEGATING = "un in im ir il dis non mis de a an anti counter".split()


def opposed(left: str, right: str) -> bool:
    """True if one text says or limits what the other does not, or negates one of its words."""
    left_words, right_words = words(left), words(right)
    if sorted(_turning(left_words)) != sorted(_turning(right_words)):
        return True
    only_left, only_right = set(left_words) - set(right_words), set(right_words) - set(left_words)
    return _negates(only_left, only_right) or _negates(only_right, only_left)


def _turning(found: Sequence[str]) -> Iterator[str]:
    for before, word in zip([None, *found], found, strict=False):
        if word.endswith("n't"):
            yield "not"
        elif word == "just":
            if before not in SOFTENED_BY:
                yield "only"
        elif word in {"few", "little"}:
            if before != "a":  # few people do: most do not; a few people do: some do
                yield word
        elif (meant := SAME.get(word, word)) in POLARITY:
            yield meant


def _negates(some: set[str], others: set[str]) -> bool:
    return any(negation in some for word in others for negation in _negations(word))


def _negations(word: str) -> Iterator[str]:
    yield from (prefix + word for prefix in NEGATING)
    yield word.removesuffix("ful") + "less"
