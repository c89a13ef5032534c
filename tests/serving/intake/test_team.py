"""Admission by several processes gives what one gives, and ends as one ends."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.intake import team
from serving.intake.admit import Form
from serving.intake.files import BadInput, InputFile, open_inputs
from serving.intake.order import Order
from serving.intake.process import admit_apart
from serving.intake.render import PlainRenderer
from serving.intake.stage import admit_by
from serving.intake.team import BYTES_WORTH_A_HELPER, Helper, Share, processes_for
from serving.intake.told import told
from serving.records import Sampling
from serving.store.parts import read_manifest

GOOD, BLANK, BROKEN, TWIN = "good", "blank", "broken", "twin"
FEW = settings(max_examples=25, deadline=None)


def line(number: int, kind: str) -> str:
    if kind == BLANK:
        return ""
    if kind == BROKEN:
        return "{"
    named = {} if number % 2 else {"id": f"own-{number}"}
    return json.dumps({**({"id": "twin"} if kind == TWIN else named), "prompt": f"question {number}"})


def order_of(folder: Path, text: str, stop: bool = False, ending: str = "jsonl") -> Order:
    folder.mkdir()
    (folder / f"in.{ending}").write_text(text)
    files = open_inputs(f"in.{ending}", folder)
    return Order(files, folder / "admitted", Form(Sampling(), "scope"), None, stop)


def outcome(order: Order, processes: int) -> Any:
    """What is told, what the manifest says, and the bytes of every part; nothing of it is left."""
    found = told(order, lambda: admit_by(processes, order, PlainRenderer(), lambda found: None) or {})
    parts = {file.name: file.read_bytes() for file in order.folder.glob("*.parquet")}
    manifest = read_manifest(order.folder / "admit.json")
    assert (manifest is None) == ("done" not in found)
    written = None if manifest is None else (manifest.figures, [part.to_facts() for part in manifest.parts])
    shutil.rmtree(order.folder)
    return found, written, parts if manifest is not None else None


@FEW
@given(
    st.lists(st.sampled_from((GOOD, GOOD, GOOD, BLANK, BROKEN, TWIN)), max_size=40),
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from(["jsonl", "jsonl", "csv"]),
)
def test_several_processes_admit_and_refuse_what_one_does(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], processes: int, stop: bool, ending: str
) -> None:
    text = "".join(line(number, kind) + "\n" for number, kind in enumerate(kinds))
    if ending == "csv":
        text = "id,prompt\n" + "".join(f"{number},question\n" for number in range(len(kinds)))
    order = order_of(tmp_path_factory.mktemp("team") / "in", text, stop, ending)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(team, "BLOCK_ROWS", 3)
        alone = outcome(order, 1)
        assert outcome(order, processes) == alone


def test_more_schemas_than_a_job_may_have_are_left_to_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "BLOCK_ROWS", 2)
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    rows = []
    for number in range(8):
        schema["json_schema"] = {"schema": {"type": "object", "maxProperties": number}}
        rows.append(json.dumps({"id": str(number), "prompt": "x", "response_format": schema}) + "\n")
    order = order_of(tmp_path / "in", "".join(rows))
    assert admit_by(2, order, PlainRenderer(), lambda found: None, most_schemas=7) is None
    assert admit_by(2, order, PlainRenderer(), lambda found: None, most_schemas=8) is not None


def test_a_large_text_is_worth_a_helper_a_small_one_and_parquet_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    size = 10 * BYTES_WORTH_A_HELPER

    def of(name: str, size_bytes: int) -> InputFile:
        return InputFile(name, 0, size_bytes, "0" * 64)

    assert processes_for([of("a.jsonl", size)]) == team.MOST_PROCESSES
    assert processes_for([of("a.jsonl", BYTES_WORTH_A_HELPER - 1)]) == 1
    assert processes_for([of("a.jsonl", size), of("b.parquet", size)]) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert processes_for([of("a.jsonl", size)]) == 2


def long_order(folder: Path, twin_of: int | None = None) -> Order:
    """Long enough for two processes."""
    count, filler = 30_000, "x" * 300
    rows = (f'{{"id": "{number}", "prompt": "{filler} {number}"}}\n' for number in range(count))
    extra = "" if twin_of is None else f'{{"id": "{twin_of}", "prompt": "again"}}\n'
    return order_of(folder, "".join(rows) + extra)


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")


@needs_two
def test_a_long_file_is_admitted_in_the_order_of_its_rows(tmp_path: Path) -> None:
    order = long_order(tmp_path / "in")
    assert processes_for(order.files) == 2
    assert admit_apart(order, lambda: False, lambda rows: None) == 30_000
    manifest = read_manifest(order.folder / "admit.json")
    assert manifest is not None
    rows = [row for table in manifest.tables("requests", ["row"]) for row in table["row"].to_pylist()]
    assert rows == list(range(30_000))


@needs_two
def test_twins_in_the_blocks_of_two_processes_are_found(tmp_path: Path) -> None:
    order = long_order(tmp_path / "in", twin_of=15_000)
    with pytest.raises(BadInput, match=r"E_DUPID id '15000' stands twice, at .*:15001 and .*:30001"):
        admit_apart(order, lambda: False, lambda rows: None)


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


@needs_two
def test_a_helper_that_is_killed_is_a_refusal_and_nobody_is_left(tmp_path: Path) -> None:
    order = long_order(tmp_path / "in")
    others, seen = set(descendants(os.getpid())), set[int]()

    def kill_the_helper() -> bool:
        found = [pid for pid in descendants(os.getpid()) if pid not in others]
        seen.update(found)
        if len(found) == 2:
            os.kill(found[1], signal.SIGKILL)
        return False

    with pytest.raises(BadInput, match=r"E_LIMIT .*by SIGKILL"):
        admit_apart(order, kill_the_helper, lambda rows: None)
    assert len(seen) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


def test_what_a_helper_raises_is_never_run_on_here(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError

    pid = os.fork()
    if pid == 0:
        try:
            Helper(fails).found()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_shares_cover_every_row_once() -> None:
    shares = [Share(place, 3) for place in range(3)]
    assert all(sum(share.holds(row) for share in shares) == 1 for row in range(0, 10 * team.BLOCK_ROWS, 777))
