"""The suite is held to what it is for: eight ways to break the store, each of which a law that it passes finds out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from msgspec import structs

from flows.answer import answer
from flows.progress import Silent
from flows.settlement import Settlement
from serving.config import parse_job
from serving.engines.echo import EchoEngine
from serving.records import Completion, Request, Source
from serving.store import durable, segments
from serving.store.durable import Disk, write_bytes
from serving.store.schemas import NO_ROWS, SEGMENT, usd_column
from serving.store.segments import Chain, Span, read_rows
from serving.store.tables import read_table
from serving.store.writer import Superseded, Writer
from tests.faults import test_power_loss
from tests.faults.test_power_loss import Work, search

pytestmark = pytest.mark.faults


# The laws. Each raises AssertionError where it does not hold.


def no_power_failure_breaks_a_promise(_: Path) -> None:
    assert search(most=1).broken == []


class Ended(BaseException):
    """The process would have ended here."""


class FailsOneSync(Disk):
    """Its first fsync fails; the next ones say that all is well, as the kernel's do once it has dropped the pages."""

    def __init__(self) -> None:
        self.failed = False

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        if not self.failed:
            self.failed = True
            raise OSError(5, "Input/output error")

    def end(self, message: str) -> Any:  # type: ignore[override]
        raise Ended(message)


def a_failed_sync_ends_the_process(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "DISK", FailsOneSync())
        try:
            write_bytes(folder / "a", b"data")
        except Ended:
            assert not (folder / "a").exists()
            return
    raise AssertionError("it went on after a failed fsync")


class Backwards(EchoEngine):
    """Answers what it was given last first, as a real engine may."""

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        return iter([self._answer(request) for request in requests][::-1])


def each_answer_goes_to_its_own_prompt(folder: Path) -> None:
    rows = ({"custom_id": f"id-{n}", "body": {"messages": [{"role": "user", "content": f"say {n}"}]}} for n in range(9))
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = parse_job(
        {
            "dataset": {"path": str(folder / "in.jsonl")},
            "model": {"full": "echo"},
            "engine": {"kind": "echo"},
            "price": {"usd_per_hour": "1"},
        },
        "job",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.lane.open_engine", lambda *_: Backwards())
        run = answer(job, folder / "runs", Silent()).run
    for line in (run.export / "results.jsonl").read_text().splitlines():
        result = json.loads(line)
        said = result["response"]["body"]["choices"][0]["message"]["content"]
        assert said == f"say {result['custom_id'].removeprefix('id-')}"


def a_superseded_writer_settles_nothing(folder: Path) -> None:
    work = Work(folder)
    span = work._span(2)
    stale = work.run.writer()
    hung = stale.__enter__()
    hung.chain("full").commit(work._span(1))
    with work.run.writer(take_over=True) as now:
        now.chain("full").seal(span)
        refused = False
        try:
            hung.chain("full").seal(span)  # it wakes up, and has answers to the same rows
        except Superseded:
            refused = True
    stale.gen.close()  # type: ignore[attr-defined]
    settled = [row for table in read_rows(work.run.segments, ["row"]) for row in table["row"].to_pylist()]
    assert sorted(settled) == sorted(set(settled)), "a row is settled twice"
    assert refused, "it was told that its rows are settled"


# The broken variants.


def no_sync_of_files(patch: pytest.MonkeyPatch) -> None:
    sync = durable._sync
    patch.setattr(durable, "_sync", lambda descriptor, path: sync(descriptor, path) if path.is_dir() else None)


def no_sync_of_folders(patch: pytest.MonkeyPatch) -> None:
    sync = durable._sync
    patch.setattr(durable, "_sync", lambda descriptor, path: None if path.is_dir() else sync(descriptor, path))


def charges_apart_from_rows(patch: pytest.MonkeyPatch) -> None:
    commit = Chain.commit

    def in_two_steps(chain: Chain, span: Span) -> None:
        free = span.rows.set_column(
            SEGMENT.get_field_index("usd"), SEGMENT.field("usd"), usd_column(np.zeros(span.rows.num_rows, np.int64))
        )
        commit(chain, replace(span, rows=free, overheads=[]))
        commit(chain, replace(span, rows=NO_ROWS))

    patch.setattr(Chain, "commit", in_two_steps)


def answers_matched_by_position(patch: pytest.MonkeyPatch) -> None:
    add = Settlement.add

    def by_position(settlement: Settlement, completion: Completion) -> int:
        return add(settlement, structs.replace(completion, row=min(settlement._in_flight)))

    patch.setattr(Settlement, "add", by_position)


def every_table_in_the_folder_counts(patch: pytest.MonkeyPatch) -> None:
    def by_glob(folder: Path, columns: list[str] | None = None) -> Iterator[Any]:
        return (read_table(file, columns) for file in folder.glob("*.parquet"))

    patch.setattr(test_power_loss, "read_rows", by_glob)


def a_failed_sync_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    def twice(descriptor: int, path: Path) -> None:
        try:
            durable.DISK.fsync(descriptor)
        except OSError:
            durable.DISK.fsync(descriptor)

    patch.setattr(durable, "_sync", twice)


def copies_before_what_they_are_copies_of(patch: pytest.MonkeyPatch) -> None:
    commit = Chain.commit

    def copies_first(chain: Chain, span: Span) -> None:
        ran = pc.equal(span.rows["source"], Source.ENGINE.value)
        commit(chain, replace(span, rows=span.rows.filter(pc.invert(ran)), overheads=[]))
        commit(chain, replace(span, rows=span.rows.filter(ran)))

    patch.setattr(Chain, "commit", copies_first)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "check", lambda self: None)
    patch.setattr(segments, "_counts", lambda name, ends: True)


VARIANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Path], None]]] = [
    (no_sync_of_files, no_power_failure_breaks_a_promise),
    (no_sync_of_folders, no_power_failure_breaks_a_promise),
    (charges_apart_from_rows, no_power_failure_breaks_a_promise),
    (answers_matched_by_position, each_answer_goes_to_its_own_prompt),
    (every_table_in_the_folder_counts, no_power_failure_breaks_a_promise),
    (a_failed_sync_is_tried_again, a_failed_sync_ends_the_process),
    (copies_before_what_they_are_copies_of, no_power_failure_breaks_a_promise),
    (no_fence, a_superseded_writer_settles_nothing),
]


@pytest.mark.parametrize(("breaks", "law"), VARIANTS, ids=lambda one: one.__name__)
def test_a_broken_variant_is_found_out(
    breaks: Callable[[pytest.MonkeyPatch], None], law: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        with pytest.raises(AssertionError):
            law(tmp_path)


@pytest.mark.parametrize(
    "law", [a_failed_sync_ends_the_process, each_answer_goes_to_its_own_prompt, a_superseded_writer_settles_nothing]
)
def test_the_store_keeps_the_law(law: Callable[[Path], None], tmp_path: Path) -> None:
    """The fourth law, of power failures, has a test of its own."""
    law(tmp_path)
