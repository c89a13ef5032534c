"""Why one row cannot be admitted."""


class BadRow(ValueError):
    """A row's field is wrong. `code` tells the kind of fault."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
