"""What an engine has spent so far, counted where a crash cannot take it: in a page that the kernel keeps.

The engine counts its tokens, whoever feeds it the seconds. What the meter shows beyond the settled rows was spent and
lost. A power failure may lose the count as well: then the loss is not known, and nothing is booked that is not known.
"""

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.store.durable import open_new

FIELDS = struct.Struct("<8sdQQ")  # mark, seconds, prompt tokens computed, output tokens; vllm_worker.py writes them too
MARK = b"gmmeter1"
SECONDS = struct.Struct("<d")
TOKENS = struct.Struct("<QQ")
SECONDS_AT, TOKENS_AT = 8, 16


@dataclass(frozen=True, slots=True)
class Spent:
    seconds: float = 0.0
    prompt_tokens: int = 0  # computed, so without those found in the prefix cache
    completion_tokens: int = 0


class Meter:
    """The meter of one engine, from its start to its end. `path` must not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.monotonic()
        self._prompt_tokens = self._completion_tokens = 0
        descriptor = open_new(path, FIELDS.pack(MARK, 0.0, 0, 0))
        try:
            self._page = mmap.mmap(descriptor, FIELDS.size)
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
    if len(page) != FIELDS.size or not page.startswith(MARK):
        return Spent()
    _, seconds, prompt_tokens, completion_tokens = FIELDS.unpack(page)
    return Spent(seconds, prompt_tokens, completion_tokens)
