"""How two texts differ in words, once they are aligned."""

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher

TOKEN = re.compile(r"\d[\d.,]*|[^\W\d_]+(?:['’]\w+)?")
POSSESSIVE = re.compile(r"['’]s$")
POLITE = {"could": "can"}
# Words that may be there or not without changing what is asked. Prepositions, pronouns, tenses, "and" and "or" are not
# among them: to Paris is not from Paris, who was is not who is.
SMALL = set(
    "a an the of in is are be being do does has have it its this that these those "
    "there here please tell then just um uh er".split()
)
# Words of which a question is made whatever it is about. A text that has only such words beyond the other asks more or
# less politely, or at more length.
GENERIC = SMALL.union(
    "i you we he she they me us my your our one someone anyone people can could should would will may might shall must "
    "am was were did how what to for with by at on about from as and or if so some any get got getting make way ways "
    "give know want need like really actually exactly also too very".split()
)
# Of these, one in place of another asks something else, though none of them says what.
RELATIONS = set(
    "to from for with by at on about and or into onto than as if against without within through between over under "
    "behind before after during until since".split()
)
ASKING = {"which", "who", "whom", "whose", "when", "where", "why", "how", "what"}
ALIKE = {"how", "what"}  # "how can I" is often "what is the way to"


@dataclass(frozen=True, slots=True)
class Apart:
    """Words that only one of two texts has; a word that stands elsewhere in the other is not among them."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    shared: int  # words that both have in the same order

    @property
    def replaced(self) -> bool:
        """True if one thing is asked in place of another: each text has a word of content that the other lacks, or a
        relation, or a question word."""
        both = (set(self.left), set(self.right))
        return (
            all(words - GENERIC - ASKING for words in both)
            or all(words & RELATIONS for words in both)
            or (all(words & ASKING for words in both) and not all(words & ASKING <= ALIKE for words in both))
            or any(some & ASKING - ALIKE and other - GENERIC for some, other in (both, both[::-1]))
            or not (self.shared or both == (set(), set()))
        )


def words_of(text: str) -> list[str]:
    words = (POSSESSIVE.sub("", token.lower()) for token in TOKEN.findall(text))
    return [POLITE.get(word, word) for word in words]


def content(words: list[str]) -> list[str]:
    return [word for word in words if word not in SMALL]


def apart(left: str, right: str) -> Apart:
    one, other = words_of(left), words_of(right)
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    lost = Counter(content([word for kind, a, b, _, _ in blocks if kind != "equal" for word in one[a:b]]))
    gained = Counter(content([word for kind, _, _, a, b in blocks if kind != "equal" for word in other[a:b]]))
    shared = sum(b - a for kind, a, b, _, _ in blocks if kind == "equal")
    return Apart(tuple((lost - gained).elements()), tuple((gained - lost).elements()), shared)
