"""Ids are unique over all files. Of each, eight bytes are kept in memory; the rest waits in a file without a name."""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from serving.intake.files import BadInput
from serving.intake.shown import shown


class Ids:
    """Notes ids as they come and tells at the end whether one stood twice."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """`folder` is where the file without a name lies: on the disk of the run. The `key` is random, so that nobody
        can make up ids whose digests are equal, and the same for all that are checked together."""
        self.digests = array("Q")
        self._key = key
        self._noted: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)  # noqa: SIM115 (closed by __exit__)

    def note(self, row: int, custom_id: str, place: str) -> None:
        """`place` is file:line. Neither holds a line break: ids have no control characters, and a name is escaped."""
        digest = blake2b(custom_id.encode(), digest_size=8, key=self._key).digest()
        self.digests.append(int.from_bytes(digest))
        self._noted.write(f"{row}\t{custom_id}\t{place}\n")

    def flush(self) -> None:
        """To the file, where whoever shares it can read what was noted."""
        self._noted.flush()

    def noted(self) -> Iterator[tuple[int, str, str]]:
        """Row, id and place, in the order of `digests`."""
        self._noted.seek(0)
        for line in self._noted:
            row, custom_id, place = line.removesuffix("\n").split("\t", 2)
            yield int(row), custom_id, place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._noted.close()


def must_be_unique(parts: Sequence[Ids]) -> None:
    """Raises BadInput if an id stands twice, in one of them or in two: answers could not be told apart."""
    suspects = _suspects(np.concatenate([np.array(part.digests, np.uint64) for part in parts]))
    if not suspects.any():
        return
    noted = (line for part in parts for line in part.noted())
    seen: dict[str, str] = {}
    for _, custom_id, place in sorted(compress(noted, suspects)):
        first = seen.setdefault(custom_id, place)
        if first is not place:
            where = f"{first} and {place}"
            raise BadInput("E_DUPID", f"id {shown(custom_id)} stands twice, at {where}; give every row its own id")


def _suspects(digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True of an id whose digest another one has too."""
    order = np.argsort(digests)
    equal = digests[order[1:]] == digests[order[:-1]]
    suspects = np.zeros(len(digests), np.bool_)
    suspects[order[1:][equal]] = True
    suspects[order[:-1][equal]] = True
    return suspects
