"""A power failure at any moment, with anything unsynced lost: what was promised is there, and nothing else counts."""

import itertools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from serving.records import Choice, Overhead, Source, Usage
from serving.store import durable
from serving.store.durable import WRITING
from serving.store.parts import PartWriter, read_manifest
from serving.store.run import Run, create
from serving.store.segments import Span, read_rows, read_segments, verify_segments
from tests.faults.power_loss import Op, State, lay_out, recorded, states
from tests.settled import Settled, span_of

pytestmark = pytest.mark.faults
LEAST_STATES = 10_000
ROWS = pa.schema([("row", pa.int64())])
FACTS = {"job": {}, "fingerprint": {}, "input": {}, "models": {}, "price": {}, "created_unix_s": 0.0}


class Work:
    """A run of two writers, the first of which dies; notes what was promised, and after which operation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.promises: list[tuple[int, dict[int, Decimal]]] = [(0, {})]
        self.now: dict[int, Decimal] = {}  # every row that was ever handed to the store, with what it costs

    @property
    def run(self) -> Run:
        return Run(self.root / "runs" / "one")

    def do(self, _: Path) -> None:
        for dies in (True, False):
            self._write(dies)

    def _write(self, dies: bool) -> None:
        holding = self.run.writer()
        writer = holding.__enter__()
        create(self.run, FACTS)
        if read_manifest(self.run.admitted) is None:
            parts = PartWriter(self.run.admitted.parent, "admit", {"requests": ROWS})
            parts.add("requests", {"row": 1})
            parts.finish({"rows": 1})
        full, quantized = writer.chain("full"), writer.chain("quantized")
        for _ in range(2):
            for chain in (full, quantized):
                chain.commit(self._span(3))
                self._promise()
            full.seal(self._span(2))
            self._promise()
        quantized.seal()
        full.commit(self._span(1))
        self._promise()
        if dies:
            holding.gen.close()  # type: ignore[attr-defined]
        else:
            full.seal()
            holding.__exit__(None, None, None)

    def _span(self, rows: int) -> Span:
        first = len(self.now)
        settled = [self._settled(row, answered_by=first) for row in range(first, first + rows)]
        return span_of(settled, [Overhead("start_up", "full", 0.1, Decimal("0.01"))], lane="full", engine="one")

    def _settled(self, row: int, answered_by: int) -> Settled:
        self.now[row] = Decimal(row) / 1000
        source = Source.ENGINE if row == answered_by else Source.EXACT
        choices = (Choice("an answer", "stop"),)
        return Settled(row, f"id-{row}", answered_by, Usage(3, 2, 0), 0.1, self.now[row], choices, source)

    def _promise(self) -> None:
        assert isinstance(durable.DISK, durable.Disk)
        self.promises.append((len(durable.DISK.ops), dict(self.now)))  # type: ignore[attr-defined]

    def promised(self, operations: int) -> dict[int, Decimal]:
        return next(rows for at, rows in reversed(self.promises) if at <= operations)


def after_recovery(root: Path) -> dict[int, Decimal]:
    """The rows that count once the run was opened again, with what they cost; each must be there once."""
    run = Run(root / "runs" / "one")
    with run.writer():
        pass
    verify_segments(run.segments)
    if run.exists:
        assert run.facts["format"]
    rows = [row for table in read_rows(run.segments, ["row", "answered_by", "usd"]) for row in table.to_pylist()]
    found = {row["row"]: row["usd"] for row in rows}
    assert len(found) == len(rows), "a row is settled twice"
    assert {row["answered_by"] for row in rows} <= found.keys(), "a copy counts, and what it is a copy of does not"
    names = [segment.name for segment in read_segments(run.segments)]
    assert len(set(names)) == len(names)
    read_manifest(run.admitted)
    return found


def only_whole_segments_are_seen(root: Path) -> None:
    """By a reader who looks before the run is opened again."""
    folder = Run(root / "runs" / "one").segments
    seen = sum(table.num_rows for table in read_rows(folder, ["row"]))
    assert seen == sum(segment.facts["rows"] for segment in read_segments(folder)), "a reader sees half a segment"


@dataclass(frozen=True)
class Search:
    """What was found: how many different states there are, and every promise that one of them breaks."""

    operations: int
    states: int
    broken: list[str]


def search(most: int | None = None) -> Search:
    """`most` is how many broken promises are enough."""
    memory = Path("/dev/shm")  # nothing here needs a disk: what a disk may lose is in the model
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        work = Work(Path(folder) / "work")
        work.root.mkdir()
        ops = recorded(work.root, work.do)
        all_of_them: set[int] = set()
        to_check = list(_different(work, ops, all_of_them))
        with multiprocessing.get_context("fork").Pool(2) as two:
            found = two.imap_unordered(partial(broken_promise, work, Path(folder)), to_check, chunksize=32)
            broken = (one for one in found if one)
            return Search(len(ops), len(all_of_them), list(itertools.islice(broken, most)))


def _different(work: Work, ops: list[Op], all_of_them: set[int]) -> Iterator[tuple[int, State]]:
    """The states that differ in what has a name. A file that was never renamed is removed unread, whatever is in it."""
    named: set[int] = set()
    for operations, state in states(ops):
        promised = len(work.promised(operations))
        all_of_them.add(hash((state, promised)))
        folders, files = state
        names = tuple((name, b"" if name.endswith(WRITING) else contents) for name, contents in files)
        if (mark := hash((folders, names, promised))) not in named:
            named.add(mark)
            yield operations, state


def broken_promise(work: Work, scratch: Path, found: tuple[int, State]) -> str | None:
    """In words, if a promised row is gone or has another price, or if a row counts that was never written."""
    operations, state = found
    promised = work.promised(operations)
    root = scratch / f"state-{os.getpid()}"
    lay_out(state, root)
    try:
        only_whole_segments_are_seen(root)
        there = after_recovery(root)
    except Exception as fault:  # noqa: BLE001 any fault here is what is looked for
        return f"after {operations} operations: {type(fault).__name__}: {fault}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if {row: there.get(row) for row in promised} != promised:
        return f"after {operations} operations: {len(promised)} rows were promised, {len(there)} are there"
    if not there.items() <= work.now.items():
        return f"after {operations} operations: rows count that were never written"
    return None


def test_no_power_failure_loses_what_was_promised_or_lets_anything_else_count() -> None:
    began = time.monotonic()
    found = search()
    print(
        f"power loss: {found.operations} operations, {found.states} states, {len(found.broken)} violations,"
        f" {time.monotonic() - began:.0f} s"
    )
    assert found.states >= LEAST_STATES
    assert found.broken == []
