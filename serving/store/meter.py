"""What an engine has spent so far, counted where a crash cannot take it: in a page that the kernel keeps.

The engine counts its tokens, whoever feeds it the seconds. What the meter shows beyond the settled rows was spent and
lost. A power failure may lose the count as well: then the loss is not known, and nothing is booked that is not known.
"""

import mmap
import os
import struct
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.store.durable import open_new

HEAD = struct.Struct("<8sd")  # mark, seconds; then for each process prompt tokens computed and output tokens
MARK = b"gmmeter2"
SECONDS = struct.Struct("<d")
TOKENS = struct.Struct("<QQ")
SECONDS_AT = 8
TOKENS_AT = HEAD.size  # and so on; vllm_worker.py writes them as well


@dataclass(frozen=True, slots=True)
class Spent:
    seconds: float = 0.0
    prompt_tokens: int = 0  # computed, so without those found in the prefix cache
    completion_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(*(one - less for one, less in zip(astuple(self), astuple(other), strict=True)))


class Meter:
    """The meter of one engine, from its start to its end, with a place for each of its processes.

    `path` must not exist.
    """

    def __init__(self, path: Path, places: int = 1) -> None:
        self.path = path
        self._began = time.monotonic()
        self._prompt_tokens = self._completion_tokens = 0
        blank = HEAD.pack(MARK, 0.0) + TOKENS.pack(0, 0) * places
        descriptor = open_new(path, blank)
        try:
            self._page = mmap.mmap(descriptor, len(blank))
        finally:
            os.close(descriptor)

    @property
    def name(self) -> str:
        return self.path.stem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._page.close()

    def tick(self) -> None:
        """Note that the engine runs until now."""
        SECONDS.pack_into(self._page, SECONDS_AT, time.monotonic() - self._began)

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Add tokens that were computed just now; for an engine that runs in this process."""
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        TOKENS.pack_into(self._page, TOKENS_AT, self._prompt_tokens, self._completion_tokens)

    def read(self) -> Spent:
        return _spent(self._page[:])


def read_meter(path: Path) -> Spent:
    """What a meter showed last; nothing where a power failure took it."""
    try:
        return _spent(path.read_bytes())
    except FileNotFoundError:
        return Spent()


def _spent(page: bytes) -> Spent:
    whole = len(page) > HEAD.size and (len(page) - HEAD.size) % TOKENS.size == 0
    if not whole or not page.startswith(MARK):
        return Spent()
    _, seconds = HEAD.unpack_from(page)
    prompt_tokens, completion_tokens = map(sum, zip(*TOKENS.iter_unpack(page[HEAD.size :]), strict=True))
    return Spent(seconds, prompt_tokens, completion_tokens)
