"""What a process that ended has said last, from its log."""

from pathlib import Path

SHOWN_CHARACTERS = 300


def last_words(log: Path) -> str:
    """The last line with an error in it, else the last one, and where the others are."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "nothing")
    return f"{said.strip()[:SHOWN_CHARACTERS]} (whole log: {log})"
