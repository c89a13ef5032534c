"""Of which time a text asks, as its auxiliaries tell: who is king is not who was."""

from optimizer.differences.words import words

TIMES = {
    "was": "past", "were": "past", "did": "past", "had": "past", "will": "future", "shall": "future", "won't": "future",
}  # fmt: skip


def times(text: str) -> list[str]:
    found = {TIMES.get(word) or TIMES.get(word.removesuffix("n't")) for word in words(text)}
    found |= {"future" for word in words(text) if word.endswith("'ll")}
    return sorted(time for time in found if time)
