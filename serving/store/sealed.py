"""JSON files that carry the digest of their own bytes, so that a changed one cannot pass for what was written."""

import hashlib
import json
from pathlib import Path
from typing import Any

from serving.store.durable import write_bytes

SEAL = b',\n "sha256_of_the_rest": "'
END = b'"\n}\n'


class Corrupt(RuntimeError):
    """A file of a run is not what was written. Names the file, what was expected and what was found."""


def write_sealed(path: Path, facts: dict[str, Any], new: bool = False) -> str:
    """Write `facts`, which must not be empty; returns the sha256 of the whole file. `new` is as in write_blocks."""
    return write_bytes(path, sealed(facts), new)


def sealed(facts: dict[str, Any]) -> bytes:
    body = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False).encode().removesuffix(b"\n}")
    return body + SEAL + _digest(body) + END


def read_sealed(path: Path) -> dict[str, Any]:
    """The facts as they were written.

    Raises:
        Corrupt: the bytes are not those that were sealed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"{path}: missing") from None
    body, seal, rest = data.rpartition(SEAL)
    expected = rest.removesuffix(END)
    if not seal or not rest.endswith(END):
        raise Corrupt(f"{path}: {len(data)} bytes that do not end in a seal; it is cut off, or not ours")
    if (found := _digest(body)) != expected:
        said = expected.decode(errors="replace")[:80]
        raise Corrupt(f"{path}: the sha256 of its bytes 0 to {len(body) - 1} is {found.decode()}, its seal says {said}")
    facts: dict[str, Any] = json.loads(body + b"\n}")
    return facts


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
