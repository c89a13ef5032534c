"""Ids are unique over all files. Of each, eight bytes are kept in memory; the rest waits in a file without a name."""

import os
import tempfile
from array import array
from hashlib import blake2b
from pathlib import Path
from typing import IO, Self

import numpy as np

from serving.intake.files import BadInput
from serving.intake.shown import shown


class Ids:
    """Notes ids as they come and tells at the end whether one stood twice."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where the file without a name lies: on the disk of the run."""
        self._digests = array("Q")
        self._key = os.urandom(16)  # so that nobody can make up ids whose digests are equal
        self._noted: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)  # noqa: SIM115 (closed by __exit__)

    def note(self, custom_id: str, place: str) -> None:
        """`place` is file:line. Neither holds a line break: ids have no control characters, and a name is escaped."""
        digest = blake2b(custom_id.encode(), digest_size=8, key=self._key).digest()
        self._digests.append(int.from_bytes(digest))
        self._noted.write(f"{custom_id}\t{place}\n")

    def must_be_unique(self) -> None:
        """Raises BadInput if an id stands twice: answers could not be told apart."""
        suspects = self._suspects()
        if not suspects.any():
            return
        seen: dict[str, str] = {}
        self._noted.seek(0)
        for line, suspect in zip(self._noted, suspects, strict=True):
            if not suspect:
                continue
            custom_id, _, place = line.removesuffix("\n").partition("\t")
            first = seen.setdefault(custom_id, place)
            if first is not place:
                where = f"{first} and {place}"
                raise BadInput("E_DUPID", f"id {shown(custom_id)} stands twice, at {where}; give every row its own id")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._noted.close()

    def _suspects(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """(ids,) bool: True of an id whose digest another one has too."""
        if len(self._digests) < 2:
            return np.zeros(len(self._digests), np.bool_)
        digests = np.frombuffer(self._digests, np.uint64)
        order = np.argsort(digests)
        equal = digests[order[1:]] == digests[order[:-1]]
        suspects = np.zeros(len(digests), np.bool_)
        suspects[order[1:][equal]] = True
        suspects[order[:-1][equal]] = True
        return suspects
