"""Finished rows and their charges, made durable together: immutable segments, each sealed by a manifest.

A segment counts from the moment its .json is renamed into place. Each writer (an epoch of the run's lock) has a chain:
every manifest holds the sha256 of the one before, so a segment that is lost or exchanged is seen.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.digest import sha256_of
from serving.records import Overhead, Settled
from serving.store.durable import write_json, write_parquet
from serving.store.parts import Corrupt
from serving.store.schemas import SEGMENT, settled_to_columns

NAME = re.compile(r"^w(?P<epoch>\d{4,})-(?P<number>\d{6,})\.json$")

FACTS = {
    "rows", "prompt_tokens", "completion_tokens", "usd", "sha256", "previous", "overheads", "lane", "seconds", "rates",
    "sealed_unix_s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed segment, as its manifest tells."""

    manifest: Path
    facts: dict[str, Any]

    @property
    def table(self) -> Path:
        return self.manifest.with_suffix(".parquet")

    @property
    def epoch(self) -> int:
        return int(self.manifest.name[1:].partition("-")[0])

    @property
    def overheads(self) -> list[Overhead]:
        return [Overhead(**{**line, "usd": Decimal(line["usd"])}) for line in self.facts["overheads"]]


class SegmentWriter:
    """Appends segments under one epoch. `lost_s` is what a killed writer before this one threw away."""

    def __init__(self, folder: Path, epoch: int, lost_s: float = 0.0) -> None:
        self.epoch = epoch
        self.lost_s = lost_s
        self._folder = folder
        self._number = 0
        self._previous: str | None = None
        _drop_leftovers(folder)

    def seal(self, rows: list[Settled], overheads: list[Overhead], figures: dict[str, Any]) -> None:
        """Make rows, their charges and overheads durable in one step. Nothing of it counts before that step."""
        name = f"w{self.epoch:04}-{self._number:06}"
        table = pa.Table.from_pylist([settled_to_columns(row) for row in rows], SEGMENT)
        sha256 = write_parquet(self._folder / f"{name}.parquet", table)
        facts = {
            **sums(table),
            "sha256": sha256,
            "previous": self._previous,
            "overheads": [{**asdict(line), "usd": str(line.usd)} for line in overheads],
            **figures,
        }
        self._previous = write_json(self._folder / f"{name}.json", facts)
        self._number += 1


def sums(table: pa.Table) -> dict[str, Any]:
    """What a manifest says about its rows, so that a wrong table cannot pass for the right one."""
    usd = pc.sum(table["usd"]).as_py() or Decimal(0)
    totals = {name: pc.sum(table[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")}
    return {"rows": table.num_rows, **totals, "usd": str(usd)}


def next_epoch(folder: Path) -> int:
    """One above every epoch that ever sealed a segment here."""
    return 1 + max((int(name["epoch"]) for name in _names(folder)), default=0)


def read_segments(folder: Path) -> list[Segment]:
    """All sealed segments in the order of their sealing; a Parquet file without a manifest does not exist."""
    found = sorted(_names(folder), key=lambda name: (int(name["epoch"]), int(name["number"])))
    return [_read(folder / name.string) for name in found]


def read_rows(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of all sealed segments, one segment in memory at a time."""
    for segment in read_segments(folder):
        yield from pq.read_table(segment.table, columns=columns, partitioning=None).to_pylist()


def verify_segments(folder: Path) -> tuple[int, int]:
    """Recompute every hash, count and sum, and every chain; returns (segments, rows).

    Raises:
        Corrupt: names the file, what the manifest says and what was found.
    """
    previous: dict[int, str] = {}
    seen: set[int] = set()
    segments = read_segments(folder)
    for segment in segments:
        epoch = segment.epoch
        _verify_one(segment, previous.get(epoch))
        previous[epoch] = sha256_of(segment.manifest)
        rows = pq.read_table(segment.table, columns=["row"], page_checksum_verification=True, partitioning=None)
        for row in rows["row"].to_pylist():
            if row in seen:
                raise Corrupt(f"{segment.table}: row {row} is settled twice")
            seen.add(row)
    return len(segments), len(seen)


def _verify_one(segment: Segment, previous: str | None) -> None:
    if segment.facts["previous"] != previous:
        expected, found = segment.facts["previous"], previous
        raise Corrupt(f"{segment.manifest}: the chain is broken: it follows {expected}, before it stands {found}")
    if not segment.table.exists():
        raise Corrupt(f"{segment.table}: missing; its manifest lists {segment.facts['rows']} rows")
    found = sha256_of(segment.table)
    if found != segment.facts["sha256"]:
        raise Corrupt(f"{segment.table}: sha256 is {found}, its manifest says {segment.facts['sha256']}")
    for name, value in sums(pq.read_table(segment.table, partitioning=None)).items():
        if value != segment.facts[name]:
            raise Corrupt(f"{segment.table}: {name} is {value}, its manifest says {segment.facts[name]}")


def _read(manifest: Path) -> Segment:
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{manifest}: not JSON: {error}") from None
    if not isinstance(facts, dict) or (missing := FACTS - facts.keys()):
        raise Corrupt(
            f"{manifest}: not a segment's manifest; it lacks {min(missing) if isinstance(facts, dict) else 'all'}"
        )
    return Segment(manifest, facts)


def _names(folder: Path) -> list[re.Match[str]]:
    files = folder.iterdir() if folder.exists() else []
    return [match for file in files if (match := NAME.match(file.name))]


def _drop_leftovers(folder: Path) -> None:
    """What a crash left half written: files aside, and tables whose manifest never came."""
    for file in folder.glob(".*.writing"):
        file.unlink()
    for table in folder.glob("*.parquet"):
        if not table.with_suffix(".json").exists():
            table.unlink()
