"""Which letter of a multiple-choice question an answer names. Where it may name several, or a word, it names none."""

import re

LETTER = r"(?P<letter>[A-J])"
FEW = "{0,8}"  # a model that repeats itself must not make the search slow
OPEN = rf"[\s\"'`*_$(\[{{]{FEW}"
CLOSE = rf"[\"'`*_$)\]}}]{FEW}"
ENDS = rf"(?={CLOSE}[.,:;!?]*{CLOSE}(?:\s|\Z))"

ANSWER = re.compile(
    rf"\banswer\b(?:\s+(?:is|would\s+be|must\s+be|should\s+be|option|choice))*\s*[:=]?{OPEN}{LETTER}{ENDS}",
    re.IGNORECASE,
)
BOXED = re.compile(rf"\\boxed\{{\s*(?:\\text\{{)?\(?{LETTER}\)?\}}", re.IGNORECASE)
OPTION = re.compile(rf"\b(?:option|choice)\b\s*(?:is)?\s*[:=]?{OPEN}{LETTER}{ENDS}", re.IGNORECASE)
CORRECT = re.compile(rf"\A{OPEN}{LETTER}{CLOSE}\s+is\s+(?:the\s+)?(?:correct|right|answer)\b", re.IGNORECASE)
# "B", "B)", "(B) Paris", "B. Paris", "B: Paris", "B - Paris". But "A dog", "I, too" name none, nor does the "A: Paris"
# that answers a "Q:".
FIRST = re.compile(
    rf"\A{OPEN}{LETTER}"
    rf"(?:{CLOSE}\.?{CLOSE}\s*(?:\n|\Z)|[\"'`*_]*[)\]}}]|{CLOSE}\.{CLOSE}\s|(?<![AI])[:,]\s|{CLOSE}\s+[-–—]\s)",
    re.IGNORECASE,
)
# What was meant last says more than what was weighed on the way.
SAID = ((ANSWER, BOXED), (OPTION, CORRECT), (FIRST,))

LISTED = re.compile(r"(?:^|\s)\(?([A-J])\)(?=\s)|^\s*([A-J])[.:]\s", re.IGNORECASE | re.MULTILINE)
WORD_FOLLOWS = re.compile(r"[^\S\n]+(?!because\b|since\b|as\b)\w", re.IGNORECASE)
OTHERS_FOLLOW = re.compile(rf"{CLOSE}\.?\s*(?:[,/&+]|\band\b|\bor\b)\s*{OPEN}[A-J](?![A-Za-z'’])", re.IGNORECASE)
DENIED = re.compile(rf"{CLOSE}[.:]?\s*(?:is|was)(?:n['’]t|\s+(?:not|never|wrong|false|incorrect))\b", re.IGNORECASE)


def chosen_letter(text: str) -> str | None:
    """The one letter that the answer settles on; None where that is not clear."""
    text = "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip()).strip()
    for patterns in SAID:
        found = [match for pattern in patterns for match in pattern.finditer(text) if _is_choice(match, text)]
        if not found:
            continue
        letters = {match["letter"].upper() for match in found}
        if patterns == (FIRST,):
            letters |= {(match[1] or match[2]).upper() for match in LISTED.finditer(text)}
        several = any(OTHERS_FOLLOW.match(text, match.end("letter")) for match in found)
        return None if several or len(letters) > 1 else letters.pop()
    return None


def _is_choice(match: re.Match[str], text: str) -> bool:
    """False of an article or a pronoun, and of a letter that is turned down."""
    end = match.end("letter")
    is_word = match["letter"] in "aAI" and match.re is not CORRECT and WORD_FOLLOWS.match(text, end) is not None
    return not is_word and DENIED.match(text, end) is None
