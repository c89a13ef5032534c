"""Is a regular expression tame? One that repeats a repeat can take a grammar, or a matcher, for ever."""

import re
import warnings

MAX_PATTERN_CHARACTERS = 512
MAX_CHARACTERS = 4_096  # that it stands for once each count, as in {1,20}, is written out
REPEAT = re.compile(r"[*+?]|\{(\d{1,9})?(,)?(\d{1,9})?\}")


def why_not(pattern: str) -> str | None:
    """What is wrong with it, in words that follow "the pattern X, which"; None if it is tame."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"has {len(pattern)} characters; at most {MAX_PATTERN_CHARACTERS}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is not a regular expression ({error}); mend it"
    if re.search(r"\(\?[^:]|\\[1-9]|\\k", re.sub(r"\\\\", "", pattern)):
        return "looks around or back; write it without (?...) and back references"
    return _repeats_a_repeat(pattern)


class _Group:
    """What stands between two brackets, read so far."""

    def __init__(self, characters: int = 0) -> None:
        self.characters = characters  # once each count in it is written out
        self.endless = False  # has something that may repeat without end

    def take_in(self, inner: "_Group") -> None:
        self.characters += inner.characters
        self.endless |= inner.endless


def _repeats_a_repeat(pattern: str) -> str | None:
    groups, last = [_Group()], _Group()  # `last`: what the next repeat would apply to
    place = 0
    while place < len(pattern):
        character = pattern[place]
        if repeat := REPEAT.match(pattern, place):
            if fault := _repeated(groups[-1], last, repeat):
                return fault
            place = repeat.end()
            continue
        if character == "(":
            groups.append(_Group())
        else:
            last = groups.pop() if character == ")" else _Group(characters=1)
            groups[-1].take_in(last)
        place = _end_of_class(pattern, place) if character == "[" else place + (character == "\\")
        place += 1
    return None


def _repeated(group: _Group, last: _Group, repeat: "re.Match[str]") -> str | None:
    low, comma, high = repeat[1], repeat[2], repeat[3]
    endless = repeat[0] in "*+" or (comma is not None and high is None)
    times = max(1, int(high or low or 1))
    if last.endless and (endless or times > 1):
        return "repeats a repeat; write it without one inside the other"
    group.characters += last.characters * (times - 1)
    last.characters *= times
    last.endless |= endless
    group.endless |= endless
    if group.characters > MAX_CHARACTERS:
        return f"stands for {group.characters} characters with its counts written out; at most {MAX_CHARACTERS}"
    return None


def _end_of_class(pattern: str, place: int) -> int:
    """Of the `]` that closes the class which opens at `place`; a `]` that comes first in it is one of its own."""
    place += 2 if pattern[place + 1 : place + 2] == "^" else 1
    if pattern[place : place + 1] == "]":
        place += 1
    while place < len(pattern) and pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    return place
