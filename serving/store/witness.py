"""What a manifest remembers of a file's bytes: enough to see any change, and to say where it is."""

import hashlib
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from serving.store.sealed import Corrupt

BLOCK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Witness:
    size_bytes: int
    sha256: str
    crc32s: tuple[int, ...]  # one for each block of BLOCK_BYTES: they say where, the sha256 says whether

    @classmethod
    def of(cls, data: bytes | memoryview) -> Self:
        blocks = (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))
        return cls(len(data), hashlib.sha256(data).hexdigest(), tuple(zlib.crc32(block) for block in blocks))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        return cls(facts["size_bytes"], facts["sha256"], tuple(facts["crc32s"]))

    def to_facts(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, file: Path) -> None:
        """Raises Corrupt where the file is not the one that was seen; names the first block that differs."""
        if not file.is_file():
            raise Corrupt(f"{file}: missing; its manifest lists it with {self.size_bytes} bytes, sha256 {self.sha256}")
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != self.sha256:
            raise Corrupt(f"{file}: {self._where(file)}; sha256 is {found}, its manifest says {self.sha256}")

    def _where(self, file: Path) -> str:
        seen = Witness.of(file.read_bytes())
        for place, (found, expected) in enumerate(zip(seen.crc32s, self.crc32s, strict=False)):
            if found != expected:
                start = place * BLOCK_BYTES
                end = min(start + BLOCK_BYTES, max(self.size_bytes, seen.size_bytes)) - 1
                return f"bytes {start} to {end} differ (crc32 {found:08x}, was {expected:08x})"
        return f"{seen.size_bytes} bytes, there were {self.size_bytes}"
