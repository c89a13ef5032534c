"""Finished rows and their charges, made durable together: journal frames at once, immutable segments in time.

A frame counts from the moment its fsync returned, a segment from the moment its .json is renamed into place; the
journal that it was made from then no longer does. A writer may have several chains, one for each engine that it feeds:
every manifest holds the sha256 of the one before in its chain, so a segment that is lost or exchanged is seen.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serving.digest import sha256_of
from serving.records import Overhead
from serving.store.durable import DiskFault, remove
from serving.store.journal import Frame, Journal, read_journal
from serving.store.schemas import NO_ROWS, SEGMENT
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.tables import read_table, write_table
from serving.store.witness import Witness

NAME = re.compile(r"^(?P<epoch>\d{4,})-(?P<chain>[a-z]+)-(?P<number>\d{6,})$")
ENDED = re.compile(r"^writer-(?P<epoch>\d{4,})\.ended\.json$")
MANIFEST, TABLE, JOURNAL = ".json", ".parquet", ".journal"
FACTS = {
    "rows", "answered", "failed", "prompt_tokens", "completion_tokens", "computed_prompt_tokens",
    "computed_completion_tokens", "usd", "size_bytes", "sha256", "crc32s", "previous", "overheads", "lane", "seconds",
    "rates", "load", "engine", "recovers", "closes", "sealed_unix_s",
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Of a segment, and of its journal before it was one."""

    epoch: int  # of the writer
    chain: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch:04}-{self.chain}-{self.number:06}"

    @classmethod
    def of(cls, file: Path, suffix: str) -> "Name | None":
        found = NAME.match(file.name.removesuffix(suffix)) if file.name.endswith(suffix) else None
        return cls(int(found["epoch"]), found["chain"], int(found["number"])) if found else None


@dataclass(frozen=True, slots=True)
class Span:
    """What a stretch of engine time brought: rows with their charges, the time itself, and money beside it."""

    rows: pa.RecordBatch = field(default_factory=lambda: NO_ROWS)  # of SEGMENT
    overheads: list[Overhead] = field(default_factory=list)
    lane: str | None = None
    engine: str | None = None  # which start of which lane's engine; names its meter
    seconds: float = 0.0  # of engine time that the rows are charged for
    rates: dict[str, float] | None = None
    load: dict[str, float] | None = None  # as serving.records.Load has it
    closes: tuple[str, ...] = ()  # meters whose loss is booked with this

    def to_frame(self) -> Frame:
        facts = {
            "overheads": [_line(overhead) for overhead in self.overheads],
            "lane": self.lane,
            "engine": self.engine,
            "seconds": self.seconds,
            "rates": self.rates,
            "load": self.load,
            "closes": self.closes,
        }
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SEGMENT) as stream:  # with its schema, so that whoever has the bytes can read them
            stream.write_batch(self.rows)
        return Frame(facts, sink.getvalue().to_pybytes())

    @classmethod
    def from_frame(cls, frame: Frame) -> "Span":
        overheads = [overhead_from(line) for line in frame.facts["overheads"]]
        rows = pa.ipc.open_stream(frame.rows).read_next_batch()
        return cls(**{**frame.facts, "rows": rows, "overheads": overheads, "closes": tuple(frame.facts["closes"])})


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed segment, as its manifest tells."""

    manifest: Path
    name: Name
    facts: dict[str, Any]

    @property
    def table(self) -> Path:
        return self.manifest.with_suffix(TABLE)

    @property
    def witness(self) -> Witness:
        return Witness.from_facts(self.facts)

    @property
    def overheads(self) -> list[Overhead]:
        return [overhead_from(line) for line in self.facts["overheads"]]


class Chain:
    """One chain of segments of one writer. `check` raises if the writer no longer holds the run."""

    def __init__(self, folder: Path, epoch: int, name: str, check: Callable[[], None]) -> None:
        self._folder = folder
        self._check = check
        self._next = Name(epoch, name, 0)
        self._previous: str | None = None
        self._spans: list[Span] = []
        self._journal: Journal | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows that are durable in the journal and not yet in a segment."""
        return sum(span.rows.num_rows for span in self._spans)

    def commit(self, span: Span) -> None:
        """Make rows, their charges and overheads durable in one step. Nothing of it counts before that step."""
        self._check()
        if self._journal is None:
            self._journal = Journal(self._folder / f"{self._next}{JOURNAL}")
        self._journal.append(span.to_frame())
        self._spans.append(span)
        self._check()  # a writer that was superseded meanwhile has promised nothing

    def seal(self, *more: Span, recovers: str | None = None) -> None:
        """Turn what the journal holds, and `more`, into a segment: one durable step as well."""
        spans = [*self._spans, *more]
        if not spans:
            return
        file = self._folder / str(self._next)
        try:
            self._write(file, spans, recovers)
        except DiskFault:
            self._check()  # it may be that whoever took the run over has removed what was half written
            raise
        if self._journal is not None:
            self._journal.close()
            remove(self._journal.path)
        self._journal, self._spans = None, []
        self._next = Name(self._next.epoch, self._next.chain, self._next.number + 1)

    def _write(self, file: Path, spans: list[Span], recovers: str | None) -> None:
        self._check()
        table = pa.Table.from_batches([span.rows for span in spans], SEGMENT)
        witness = write_table(file.with_suffix(TABLE), table)
        facts = {**sums(table), **witness.to_facts(), **_joined(spans), "previous": self._previous}
        facts |= {"recovers": recovers, "sealed_unix_s": round(time.time(), 3)}
        self._check()
        self._previous = write_sealed(file.with_suffix(MANIFEST), facts)
        self._check()


def _joined(spans: list[Span]) -> dict[str, Any]:
    rates = [span.rates for span in spans if span.rates is not None]
    loads = [span.load for span in spans if span.load is not None]
    return {
        "overheads": [_line(overhead) for span in spans for overhead in span.overheads],
        "lane": spans[-1].lane,
        "engine": spans[-1].engine,
        "seconds": sum(span.seconds for span in spans),
        "rates": rates[-1] if rates else None,  # they sum over all steps of an engine, so the last says all
        "load": {name: sum(load[name] for load in loads) for name in loads[0]} if loads else None,
        "closes": [engine for span in spans for engine in span.closes],
    }


def _line(overhead: Overhead) -> dict[str, Any]:
    return {**asdict(overhead), "usd": str(overhead.usd)}


def overhead_from(line: dict[str, Any]) -> Overhead:
    return Overhead(**{**line, "usd": Decimal(line["usd"])})


def sums(table: pa.Table) -> dict[str, Any]:
    """What a manifest says about its rows, so that a wrong table cannot pass for the right one."""
    ran = table.filter(pc.equal(table["source"], "engine"))
    computed = pc.subtract(ran["prompt_tokens"], ran["cached_tokens"])
    outcomes = {name: table.filter(pc.equal(table["outcome"], name)).num_rows for name in ("answered", "failed")}
    return {
        "rows": table.num_rows,
        **outcomes,
        "prompt_tokens": pc.sum(table["prompt_tokens"]).as_py() or 0,
        "completion_tokens": pc.sum(table["completion_tokens"]).as_py() or 0,
        "computed_prompt_tokens": pc.sum(computed).as_py() or 0,
        "computed_completion_tokens": pc.sum(ran["completion_tokens"]).as_py() or 0,
        "usd": str(pc.sum(table["usd"]).as_py() or Decimal(0)),
    }


def read_segments(folder: Path) -> list[Segment]:
    """All segments that count, by writer, chain and number; a Parquet file without a manifest does not exist."""
    ends = read_ends(folder)
    found = sorted((name, file) for file in _files(folder) if (name := Name.of(file, MANIFEST)))
    return [_read(file, name) for name, file in found if _counts(name, ends)]


def read_ends(folder: Path) -> dict[int, dict[str, Any]]:
    """By epoch, where each chain of a writer that has ended stopped; what came later does not count."""
    found = ((file, ENDED.match(file.name)) for file in _files(folder))
    return {int(name["epoch"]): read_sealed(file) for file, name in found if name}


def _counts(name: Name, ends: dict[int, dict[str, Any]]) -> bool:
    if name.epoch not in ends:
        return True
    chain = ends[name.epoch]["chains"].get(name.chain)
    return chain is not None and name.number <= chain["last"]


def journals(folder: Path) -> list[tuple[Name, Path]]:
    return sorted((name, file) for file in _files(folder) if (name := Name.of(file, JOURNAL)))


def read_rows(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of all sealed segments, one segment in memory at a time."""
    for segment in read_segments(folder):
        yield read_table(segment.table, columns)


def durable_outcomes(folder: Path) -> Counter[str]:
    """How many rows have left in which way: those in segments, and those that are durable in a journal."""
    while True:
        try:
            return _durable_outcomes(folder)
        except FileNotFoundError:
            continue  # a journal became a segment meanwhile: look again


def _durable_outcomes(folder: Path) -> Counter[str]:
    left, ends = journals(folder), read_ends(folder)
    segments = read_segments(folder)
    outcomes = Counter[str]()
    for segment in segments:
        outcomes.update({name: segment.facts[name] for name in ("answered", "failed")})
    sealed = {str(segment.name) for segment in segments} | {segment.facts["recovers"] for segment in segments}
    for name, file in left:
        counts = name.epoch not in ends or str(name) in ends[name.epoch]["journals"]
        if counts and str(name) not in sealed:
            spans = (Span.from_frame(frame) for frame in read_journal(file).frames)
            outcomes.update(outcome for span in spans for outcome in span.rows["outcome"].to_pylist())
    return outcomes


def verify_segments(folder: Path) -> int:
    """Recompute every hash, count and sum, every chain, its end and every journal; returns the number of files.

    Raises:
        Corrupt: names the file, what was written and what was found.
    """
    heads: dict[tuple[int, str], tuple[Name, str]] = {}
    segments = read_segments(folder)
    for segment in segments:
        place = (segment.name.epoch, segment.name.chain)
        before, previous = heads.get(place, (None, None))
        _verify_order(segment, before, previous)
        _verify_table(segment)
        heads[place] = (segment.name, sha256_of(segment.manifest))
    ends = read_ends(folder)
    for epoch, end in ends.items():
        _verify_end(folder, epoch, end, heads)
    found = journals(folder)
    for _, file in found:
        read_journal(file)
    return 2 * len(segments) + len(ends) + len(found)


def _verify_order(segment: Segment, before: Name | None, previous: str | None) -> None:
    number = 0 if before is None else before.number + 1
    if segment.name.number != number:
        missing = Name(segment.name.epoch, segment.name.chain, number)
        raise Corrupt(f"{segment.manifest.with_name(str(missing) + MANIFEST)}: missing; {segment.manifest} follows it")
    if segment.facts["previous"] != previous:
        expected = segment.facts["previous"]
        raise Corrupt(f"{segment.manifest}: the chain is broken: it follows {expected}, before it stands {previous}")


def _verify_table(segment: Segment) -> None:
    segment.witness.check(segment.table)
    for name, value in sums(read_table(segment.table)).items():
        if value != segment.facts[name]:
            raise Corrupt(f"{segment.table}: {name} is {value}, its manifest says {segment.facts[name]}")


def _verify_end(folder: Path, epoch: int, end: dict[str, Any], heads: dict[tuple[int, str], tuple[Name, str]]) -> None:
    for chain, last in end["chains"].items():
        name, sha256 = heads.get((epoch, chain), (None, None))
        file = folder / f"{Name(epoch, chain, last['last'])}{MANIFEST}"
        if name is None or name.number != last["last"]:
            raise Corrupt(f"{file}: missing; the end of writer {epoch} lists it with sha256 {last['sha256']}")
        if sha256 != last["sha256"]:
            raise Corrupt(f"{file}: sha256 is {sha256}, the end of writer {epoch} says {last['sha256']}")


def _read(manifest: Path, name: Name) -> Segment:
    facts = read_sealed(manifest)
    if missing := FACTS - facts.keys():
        raise Corrupt(f"{manifest}: not a segment's manifest; it lacks {min(missing)}")
    return Segment(manifest, name, facts)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []
