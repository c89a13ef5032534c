"""What is taken from earlier runs, and what is not; in this process, through the echo engine."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.answer import answer
from flows.members import ran_any
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import parse_job
from serving.engines.echo import EchoEngine
from serving.records import Completion, Request
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import ask, open_ledger
from serving.store.parts import PartWriter
from serving.store.run import Run, all_runs
from serving.store.segments import Chain
from serving.store.verify import verify
from tests.cli.command import digests
from tests.flows.test_certify import paired

Line = tuple[str, dict[str, Any]]  # a prompt, and its settings


class Saying(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@dataclass
class House:
    """A folder of runs over the double; `asked` are the prompts that it was asked since the last run began."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def run(self, *prompts: str | Line, **sections: Any) -> Receipt:
        lines = [(prompt, {}) if isinstance(prompt, str) else prompt for prompt in prompts]
        rows = (
            {"custom_id": f"r{row}", "body": {"messages": [{"role": "user", "content": prompt}], **settings}}
            for row, (prompt, settings) in enumerate(lines)
        )
        (self.folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        told = {
            "dataset": {"path": str(self.folder / "in.jsonl")},
            "model": {"full": "echo-model", "quantized": "echo-int8"},
            "engine": {"kind": "echo"},
            "price": {"usd_per_hour": "3600"},
        }
        progress = Saying()
        self.asked.clear()
        self.said = progress.said
        return answer(parse_job(told | sections, "job"), self.folder / "runs", progress)

    def sources(self, receipt: Receipt) -> list[str]:
        """Of each answered row in its turn."""
        return [source for source, _ in self.answers(receipt)]

    def answers(self, receipt: Receipt) -> list[tuple[str, str]]:
        with open_ledger(self.folder / "runs") as ledger:
            sql = "SELECT source, choices FROM rows WHERE run_id = $run ORDER BY row"
            return [(source, choices) for source, choices in ask(ledger, sql, run=receipt.run.run_id).rows]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = House(tmp_path)

    class Noting(EchoEngine):
        def _answer(self, request: Request) -> Completion:
            found.asked.append(request.messages[-1].content)
            return super()._answer(request)

    monkeypatch.setattr("serving.engines.echo.EchoEngine", Noting)
    return found


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"full": "another", "quantized": "echo-int8"}},
        {"sampling": {"temperature": 0.5, "seed": 1}},
        {"reuse": {"exact": False}},
        {"route": {"to_quantized": "all"}},
    ],
    ids=str,
)
def test_under_another_setting_nothing_is_taken(house: House, other: dict[str, Any]) -> None:
    house.run("one", "two")
    assert house.sources(house.run("one", "two", **other)) == ["engine", "engine"]


def test_under_another_system_prompt_nothing_is_taken(house: House) -> None:
    for system in ("Be brief.", "Be kind."):
        (house.folder / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
        dataset = {"path": str(house.folder / "rows.jsonl"), "prompt": "{{text}}", "system": system}
        assert house.sources(house.run(dataset=dataset)) == ["engine", "engine"]


def test_another_price_or_pace_takes_what_there_is(house: House) -> None:
    house.run("one", "two")
    receipt = house.run(
        "two",
        "one",
        price={"usd_per_hour": "1"},
        engine={"kind": "echo", "max_num_seqs": 3},
        model={"full": "echo-model"},
    )
    assert (house.sources(receipt), house.asked) == (["earlier", "earlier"], [])


def test_a_row_with_other_settings_of_its_own_is_run(house: House) -> None:
    house.run("one", ("two", {"max_tokens": 5}))
    assert house.sources(house.run("one", ("two", {"max_tokens": 6}))) == ["earlier", "engine"]


def test_what_is_drawn_at_random_is_drawn_anew(house: House) -> None:
    drawn: Sequence[Line] = [("same", {"temperature": 1.0}), ("same", {"temperature": 1.0, "seed": 7})]
    house.run(*drawn)
    assert house.sources(house.run(*drawn, "new")) == ["engine", "earlier", "engine"]


def test_what_the_quantized_lane_answered_is_not_taken(house: House) -> None:
    house.run("one", "two", route={"to_quantized": "all"})
    assert house.sources(house.run("two", "one", route={"to_quantized": "all"})) == ["engine", "engine"]


def test_what_is_taken_is_routed_to_no_lane(house: House) -> None:
    house.run("one", "two")
    run = house.run("one", "two", "three").run
    assert [row for part in run.stage(run.routed).tables("routes") for row in part["row"].to_pylist()] == [2]


def test_of_several_runs_the_latest_is_asked_first_and_others_for_what_it_has_not(house: House) -> None:
    one = house.run("one", "two", "three").run
    two = house.run("two", "new").run
    receipt = house.run("one", "two", "new", "newer")
    assert house.asked == ["newer"]
    with open_ledger(house.folder / "runs") as ledger:
        found = ask(ledger, "SELECT row, from_run, from_row FROM earlier WHERE run_id = $run ORDER BY row",
                    run=receipt.run.run_id).rows  # fmt: skip
    assert found == [(0, one.run_id, 0), (1, two.run_id, 0), (2, two.run_id, 1)]


def flip(file: Path) -> None:
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize(
    ("pattern", "spoil"),
    [
        ("run.json", flip),
        ("admitted/*.json", flip),
        ("admitted/*.parquet", flip),
        ("admitted/*.parquet", Path.unlink),
        ("decisions/*.parquet", flip),
        ("segments/*.parquet", flip),
        ("segments/*.parquet", Path.unlink),
    ],
)
def test_a_run_whose_files_are_not_what_was_written_gives_nothing(
    house: House, pattern: str, spoil: Callable[[Path], None]
) -> None:
    spoilt = house.run("one", "two").run
    for file in spoilt.folder.glob(pattern):
        spoil(file)
    house.run("one", "two", "three")
    assert house.asked == ["one", "two", "three"]
    assert sum(text.startswith(f"no answer is taken from {spoilt.run_id}: ") for text in house.said) == 1


def test_a_run_that_gives_nothing_is_not_read_through(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.run("one")
    looked: list[Run] = []

    def note(run: Run) -> Any:
        looked.append(run)
        return verify(run)

    monkeypatch.setattr("flows.earlier.verify", note)
    house.run("two")
    assert looked == []
    house.run("two", "three")
    assert len(looked) == 1


class Broken(BaseException):
    """As a kill would, it ends everything on the spot."""


def kill(*_: Any, **__: Any) -> Any:
    raise Broken


KILLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before it is decided": lambda patch: patch.setattr(PartWriter, "finish", kill_of("earlier")),
    "between the decision and the answers": lambda patch: patch.setattr("flows.earlier._settle", kill),
    "after some of the answers": lambda patch: patch.setattr(Chain, "seal", kill_at(1)),
    "before an engine": lambda patch: patch.setattr("flows.lane.open_engine", kill),
}


def kill_of(stage: str) -> Callable[..., Any]:
    finish = PartWriter.finish

    def kills(self: Any, *more: Any) -> Any:
        return kill() if self._stage == stage else finish(self, *more)

    return kills


def kill_at(number: int) -> Callable[..., Any]:
    seal, count = Chain.seal, iter(range(1000))

    def kills(self: Any, *more: Any) -> Any:
        return kill() if next(count) == number else seal(self, *more)

    return kills


@pytest.mark.parametrize("place", KILLS)
@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_was_killed_goes_on_from_its_own_folder(
    house: House, monkeypatch: pytest.MonkeyPatch, place: str, gone: bool
) -> None:
    monkeypatch.setattr("serving.store.parts.ROWS_PER_PART", 2)
    old = [f"prompt {number}" for number in range(7)]
    first = house.run(*old).run
    with monkeypatch.context() as patch:
        KILLS[place](patch)
        with pytest.raises(Broken):
            house.run(*old, old[0], "new")
    (run,) = set(all_runs(first.folder.parent)) - {first}
    if gone:
        shutil.rmtree(first.folder)
    decided = digests(run.earlier.parent) if run.earlier.exists() else {}
    receipt = house.run(*old, old[0], "new")
    lost = gone and place == "before it is decided"
    assert house.asked == ([*old, "new"] if lost else ["new"])
    assert house.sources(receipt) == [*(["engine" if lost else "earlier"] * 7), "exact", "engine"]
    assert decided.items() <= digests(run.earlier.parent).items()
    assert verify(receipt.run).rows == 9


def test_what_was_decided_is_not_decided_again_when_another_run_has_come(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.run("one")
    with monkeypatch.context() as patch:
        patch.setattr("flows.lane.open_engine", kill)
        with pytest.raises(Broken):
            house.run("one", "two")
    house.run("two", "three")
    assert house.sources(house.run("one", "two")) == ["earlier", "engine"]


def test_the_first_answer_is_foretold_though_others_were_taken(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that an engine has run end what may be foretold of a run; those of earlier runs do not."""
    seen: list[bool] = []
    monkeypatch.setattr("flows.answer.plan_ahead", lambda work, lanes: seen.append(ran_any(work)))
    house.run("one")
    house.run("one", "two")
    assert seen == [False, False]


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings under which a pair is near, and each may have the other's answer."""
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder(4096))
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="hashes", files={}))
    monkeypatch.setattr("flows.judging.JUDGES", {"exact": lambda answer, own: True})
    return {
        "reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"},
        "quality": {"max_wrong": 0.05},
    }


PAIRS = 300


def test_near_duplicates_of_what_was_taken_are_audited_and_share_its_answer(house: House, near: dict[str, Any]) -> None:
    prompts = paired(PAIRS)
    house.run(*prompts[::2])
    receipt = house.run(*prompts, **near)
    with open_ledger(receipt.run.folder.parent) as ledger:
        [(audited, certified)] = ask(ledger, "SELECT audited, certified FROM certificates").rows
    assert certified
    assert receipt.sources == {"earlier": PAIRS, "engine": audited, "semantic": PAIRS - audited}
    assert len(house.asked) == audited
    assert verify(receipt.run).rows == 2 * PAIRS


def test_what_a_near_duplicate_was_answered_is_not_taken(house: House, near: dict[str, Any]) -> None:
    prompts = paired(PAIRS)
    first = house.run(*prompts, **near)
    receipt = house.run(*reversed(prompts))
    assert receipt.sources == {"earlier": first.sources["engine"], "engine": first.sources["semantic"]}
