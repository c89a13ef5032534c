"""Who does what to whom, as far as the order of words and their auxiliaries tell."""

from collections import Counter
from collections.abc import Sequence

BE, HAVE = {"is", "are", "be", "was", "were"}, {"has", "have", "had"}
PASSIVE = {"been", "being"}


def reordered(left: Sequence[str], right: Sequence[str]) -> bool:
    """True if some words that both have stand in another order, whatever other words stand between them."""
    shared = sum((Counter(left) & Counter(right)).values())
    return longest_common(left, right) < shared


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Of the longest common subsequence; a row of its table at a time, as the bits of one number (Hyyrö 2004)."""
    at: dict[str, int] = {}
    for place, word in enumerate(left):
        at[word] = at.get(word, 0) | 1 << place
    every = (1 << len(left)) - 1
    unmatched = every
    for word in right:
        here = unmatched & at.get(word, 0)
        unmatched = ((unmatched + here) | (unmatched - here)) & every
    return len(left) - unmatched.bit_count()


def in_another_voice(left: Sequence[str], right: Sequence[str]) -> bool:
    """People who have eaten sharks are not people who are eaten, nor have they been."""
    be, have, passive = (_count(left, some) - _count(right, some) for some in (BE, HAVE, PASSIVE))
    return be * have < 0 or passive != 0


def _count(words: Sequence[str], some: set[str]) -> int:
    return sum(word in some for word in words)
