"""Text for a terminal: what a dataset, a file name or a server brought along must not drive it."""


def printable(text: str, keep: str = "") -> str:
    """`text` with every control and invisible character escaped, but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )
