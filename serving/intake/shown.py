"""What stands in a message of text from outside: at most 80 characters, and no control character raw."""

import reprlib
from typing import Any

MAX_SHOWN_CHARACTERS = 80

_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = MAX_SHOWN_CHARACTERS
_short.maxlevel, _short.maxlist, _short.maxdict = 3, 8, 8


def shown(value: Any) -> str:
    """A value as Python writes it. Only its beginning is looked at, however large it is."""
    text = repr(value[:MAX_SHOWN_CHARACTERS]) if isinstance(value, str) else _short.repr(value)
    whole = len(text) <= MAX_SHOWN_CHARACTERS and not (isinstance(value, str) and len(value) > MAX_SHOWN_CHARACTERS)
    return text if whole else f"{text[: MAX_SHOWN_CHARACTERS - 3]}..."


def escaped(text: str, most: int = MAX_SHOWN_CHARACTERS) -> str:
    """A name or a sentence without quotes around it."""
    head = text[:most]
    safe = head if head.isprintable() else "".join(map(_escaped, head))
    return safe if len(safe) <= most and len(text) <= most else f"{safe[: most - 3]}..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def listed(names: "list[str] | set[str]", most: int = MAX_SHOWN_CHARACTERS) -> str:
    return escaped(", ".join(sorted(names)), most)
