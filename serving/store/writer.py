"""Who writes a run: one process at a time, under an epoch of its own, which is in the name of all that it writes.

Taking a run over ends every writer before: where each of their chains stopped is written down, and what they write
later does not count. What they had made durable is kept, and what they spent and lost is found from their meters.
"""

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.digest import sha256_of
from serving.store.bucket import bucket_of
from serving.store.durable import drop_unfinished, is_there, make_folder, remove
from serving.store.journal import read_journal
from serving.store.meter import Meter, Spent, read_meter
from serving.store.sealed import read_sealed, write_sealed
from serving.store.segments import (
    MANIFEST,
    TABLE,
    Chain,
    Name,
    Segment,
    Span,
    journals,
    read_ends,
    read_segments,
)

TAKEN = re.compile(r"^writer-(?P<epoch>\d{4,})\.json$")
RECOVERED = "recovered"  # the chain of what an earlier writer left in its journals


class Superseded(RuntimeError):
    """Another process took the run over; what this one did since then does not count."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What an engine of an earlier writer spent without a settled row to show for it."""

    engine: str
    lane: str
    spent: Spent


@dataclass(slots=True)
class Writer:
    """The right to write a run. Its chains and meters are made as they are asked for."""

    folder: Path  # of the segments
    meters: Path
    epoch: int
    losses: list[Loss] = field(default_factory=list)  # to be booked with Span.closes
    _chains: dict[str, Chain] = field(default_factory=dict)
    _engines: int = 0
    _ended: bool = False

    def chain(self, name: str) -> Chain:
        if name not in self._chains:
            self._chains[name] = Chain(self.folder, self.epoch, name, self.check)
        return self._chains[name]

    def meter(self, lane: str, processes: int = 1) -> Meter:
        self._engines += 1
        return Meter(self.meters / f"{self.epoch:04}-{lane}-{self._engines:03}.meter", processes)

    def check(self) -> None:
        """Raises Superseded if a later writer has taken the run."""
        if is_there(taken_file(self.folder, self.epoch + 1)):
            holder = read_sealed(taken_file(self.folder, self.epoch + 1))
            raise Superseded(
                f"run {self.folder.parent.name} was taken over by process {holder['pid']} on {holder['host']};"
                " what it had settled here is kept, the rest is run there"
            )

    def end(self) -> None:
        """Leave in good order: whoever reads the run knows that it is whole. Nothing may be written after it."""
        if not self._ended:
            self.check()
            drop_unfinished(self.folder)
            _write_end(self.folder, self.epoch)
            self._ended = True


def take(folder: Path, meters: Path, notes: Mapping[str, Any]) -> Writer:
    """Become the writer of the run. The caller holds its lock; the notes are kept with who it is."""
    make_folder(folder)
    make_folder(meters)
    drop_unfinished(folder)
    epoch = _take_epoch(folder, notes)
    if (bucket := bucket_of(folder)) is not None:
        bucket.pull(folder.parent)  # from now on whoever wrote before promises nothing: this is all that there is
    ended = read_ends(folder)
    for earlier in range(1, epoch):
        if earlier not in ended:
            _write_end(folder, earlier)
    writer = Writer(folder, meters, epoch)
    segments = read_segments(folder)
    _drop_what_does_not_count(writer, segments)
    _recover_journals(writer, segments)
    writer.losses = _losses(writer)
    return writer


def _take_epoch(folder: Path, notes: Mapping[str, Any]) -> int:
    """One that nobody else has, not even a process that takes the run at the same moment."""
    epoch = last_epoch(folder) + 1
    who = {"epoch": epoch, "pid": os.getpid(), "host": platform.node(), "since_unix_s": round(time.time(), 3)}
    try:
        write_sealed(taken_file(folder, epoch), {**who, **notes}, new=True)
    except FileExistsError:
        return _take_epoch(folder, notes)
    return epoch


def holder_of(folder: Path) -> dict[str, Any] | None:
    """What the last writer said of itself: epoch, pid, host, since_unix_s."""
    epoch = last_epoch(folder)
    return read_sealed(taken_file(folder, epoch)) if epoch else None


def last_epoch(folder: Path) -> int:
    names = (TAKEN.match(file.name) for file in folder.glob("writer-*.json"))
    return max((int(name["epoch"]) for name in names if name), default=0)


def taken_file(folder: Path, epoch: int) -> Path:
    return folder / f"writer-{epoch:04}.json"


def _write_end(folder: Path, epoch: int) -> None:
    """Where each chain of a writer stopped, and which journals it left."""
    heads = {segment.name.chain: segment for segment in read_segments(folder) if segment.name.epoch == epoch}
    chains = {
        chain: {"last": head.name.number, "sha256": sha256_of(head.manifest)} for chain, head in sorted(heads.items())
    }
    left = [str(name) for name, _ in journals(folder) if name.epoch == epoch]
    try:
        write_sealed(folder / f"writer-{epoch:04}.ended.json", {"chains": chains, "journals": left}, new=True)
    except FileExistsError:
        pass  # the first word counts


def _drop_what_does_not_count(writer: Writer, segments: list[Segment]) -> None:
    """Tables whose manifest never came, and segments of a writer that did not know that it had ended.

    Nothing of a later writer: this one may be superseded itself, and not know it yet.
    """
    counting = {segment.name for segment in segments}
    for suffix in (MANIFEST, TABLE):  # the manifest first: a table without one is nothing
        for file in writer.folder.glob(f"*{suffix}"):
            if (name := Name.of(file, suffix)) and name.epoch < writer.epoch and name not in counting:
                remove(file)


def _recover_journals(writer: Writer, segments: list[Segment]) -> None:
    sealed = {str(segment.name) for segment in segments}
    recovered = {segment.facts["recovers"] for segment in segments}
    left = {name for end in read_ends(writer.folder).values() for name in end["journals"]}
    for name, file in journals(writer.folder):
        if name.epoch >= writer.epoch:
            continue
        if str(name) in left - sealed - recovered and (spans := _spans(file)):
            writer.chain(RECOVERED).seal(*spans, recovers=str(name))
        remove(file)


def _spans(journal: Path) -> list[Span]:
    return [Span.from_frame(frame) for frame in read_journal(journal).frames]


def _losses(writer: Writer) -> list[Loss]:
    segments = read_segments(writer.folder)
    booked = {engine for segment in segments for engine in segment.facts["closes"]}
    losses = []
    for file in sorted(writer.meters.glob("*.meter")):
        if file.stem in booked:
            remove(file)
            continue
        spent, settled = read_meter(file), _settled_by(file.stem, segments)
        lost = Spent(
            max(0.0, spent.seconds - settled.seconds),
            max(0, spent.prompt_tokens - settled.prompt_tokens),
            max(0, spent.completion_tokens - settled.completion_tokens),
        )
        losses.append(Loss(file.stem, file.stem.split("-")[1], lost))
    return losses


def _settled_by(engine: str, segments: list[Segment]) -> Spent:
    """What the segments account for of an engine's spending."""
    of_engine = [segment for segment in segments if segment.facts["engine"] == engine]
    beside = (overhead.seconds for segment in of_engine for overhead in segment.overheads)
    return Spent(
        sum(segment.facts["seconds"] for segment in of_engine) + sum(beside),
        sum(segment.facts["computed_prompt_tokens"] for segment in of_engine),
        sum(segment.facts["computed_completion_tokens"] for segment in of_engine),
    )
