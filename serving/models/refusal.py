"""How a model folder is refused: one kind of error, two codes."""


class BadModelFolder(ValueError):
    """A folder that is not a complete, code-free safetensors model. Its code is the first word of its text."""


def unsafe(reason: str) -> BadModelFolder:
    """For what could run code, or reach files outside the folder."""
    return BadModelFolder(f"E_MODEL_UNSAFE {reason}")


def unusable(reason: str) -> BadModelFolder:
    """For what is missing, damaged or not a model."""
    return BadModelFolder(f"E_MODEL {reason}")


def listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more
