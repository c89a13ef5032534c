"""A whole job through the echo engine: every row leaves once, whatever fails, dies or is interrupted on the way."""

import json
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.answer import answer
from flows.progress import Silent
from flows.receipt import Receipt
from optimizer.cost import USD_STEP, usd_of_time
from serving.config import parse_job
from serving.engines.echo import EchoEngine
from serving.records import Completion, EngineDied, Price, Request
from serving.store.meter import Meter
from serving.store.run import Run
from serving.store.segments import read_rows, read_segments
from serving.store.verify import verify

A_DOLLAR_A_SECOND = Price("job file", "job file", usd_per_hour=Decimal(3600))
NEVER: Callable[[Request], bool] = lambda request: False  # noqa: E731
# A job of up to 20 rows over four prompts, so that many are duplicates; "" is refused.
PROMPTS = st.lists(st.sampled_from(["one", "two words", "three more words", "four", ""]), min_size=1, max_size=20)
SIZES = st.sampled_from([(1, 1), (1, 3), (3, 4096), (256, 4096)])  # rows of a commit and of a segment: few or many
FEW = settings(max_examples=7, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Bench:
    """A folder with one job in it, and engines that note what they were fed."""

    def __init__(self, folder: Path, prompts: list[str], **sections: Any) -> None:
        self.runs = folder / "runs"
        self.commit_rows, self.seal_rows = 256, 4096
        self.fed: list[str] = []
        self.engines = 0
        rows = (
            {"custom_id": f"r{row}", "body": {"messages": [{"role": "user", "content": prompt}]}}
            for row, prompt in enumerate(prompts)
        )
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {
            "dataset": {"path": str(folder / "in.jsonl")},
            "model": {"full": "echo-model"},
            "engine": {"kind": "echo"},
            "price": {"usd_per_hour": "3600"},
        }
        self.job = parse_job({**settings, **sections}, "job")

    def run(
        self,
        fails: Callable[[Request], bool] = NEVER,
        deaths: Iterator[int] | None = None,
        kind: type[EchoEngine] = EchoEngine,
    ) -> Receipt:
        """Run or resume the job. Each engine that is opened dies after so many requests as `deaths` says next."""

        told = iter(()) if deaths is None else deaths

        def noted(request: Request) -> bool:
            self.fed.append(request.custom_id)
            return fails(request)

        def opened(section: Any, lane: Any, log: Any, stop: Callable[[], bool], meter: Meter, *more: Any) -> EchoEngine:
            self.engines += 1
            return kind(stop=stop, fails=noted, dies_after=next(told, None), meter=meter)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flows.lane.open_engine", opened)
            patch.setattr("flows.settlement.COMMIT_ROWS", self.commit_rows)
            patch.setattr("flows.settlement.SEAL_ROWS", self.seal_rows)
            return answer(self.job, self.runs, Silent())


@contextmanager
def bench(prompts: list[str], **sections: Any) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder), prompts, **sections)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def exported(run: Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.export / f"{name}.jsonl").read_text().splitlines()]


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [row for table in read_rows(run.segments) for row in table.to_pylist()]


def answers(run: Run) -> dict[str, str]:
    found = exported(run, "results")
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in found}


def errors(run: Run) -> dict[str, str]:
    return {line["custom_id"]: line["error"]["code"] for line in exported(run, "errors")}


def everything(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


# Laws.


@FEW
@given(PROMPTS, st.sets(st.sampled_from(["one", "four"])), st.lists(st.integers(0, 4), max_size=3), SIZES)
def test_every_row_leaves_exactly_once_with_its_own_answer(
    prompts: list[str], failing: set[str], deaths: list[int], sizes: tuple[int, int]
) -> None:
    told = iter(deaths)
    with bench(prompts) as this:
        this.commit_rows, this.seal_rows = sizes
        for _ in range(len(deaths) + 1):  # an engine that dies before its first answer ends the run; it is run again
            try:
                run = this.run(lambda request: request.messages[0].content in failing, told).run
                break
            except EngineDied:
                continue
        verify(run)
        left = [line["custom_id"] for name in ("results", "errors") for line in exported(run, name)]
        assert sorted(left) == sorted(f"r{row}" for row in range(len(prompts)))
        wanted = {f"r{row}": prompt for row, prompt in enumerate(prompts) if prompt and prompt not in failing}
        assert answers(run) == wanted


@FEW
@given(PROMPTS, st.sets(st.sampled_from(["one", "four"])), st.integers(0, 5))
def test_rows_in_are_answered_refused_failed_or_expired(prompts: list[str], failing: set[str], stop_at: int) -> None:
    def fails(request: Request) -> bool:
        if len(this.fed) == stop_at:
            signal.raise_signal(signal.SIGINT)
        return request.messages[0].content in failing

    with bench(prompts) as this:
        receipt = this.run(fails)
        counts = receipt.counts
        assert counts["rows_in"] == len(prompts)
        assert len(prompts) == sum(counts[name] for name in ("answered", "refused", "failed", "expired"))
        assert counts["refused"] == prompts.count("")
        codes = Counter(errors(receipt.run).values())
        assert (codes["batch_expired"], codes["E_ECHO"]) == (counts["expired"], counts["failed"])


@FEW
@given(PROMPTS, st.sets(st.sampled_from(["one", "four"])), st.lists(st.integers(1, 4), max_size=2), SIZES)
def test_what_rows_are_charged_adds_up_to_the_bill_of_the_engines_time(
    prompts: list[str], failing: set[str], deaths: list[int], sizes: tuple[int, int]
) -> None:
    with bench(prompts) as this:
        this.commit_rows, this.seal_rows = sizes
        receipt = this.run(lambda request: request.messages[0].content in failing, iter(deaths))
        segments = read_segments(receipt.run.segments)
        for segment in segments:
            charged = Decimal(segment.facts["usd"])
            # Each commit of a segment is billed to the last digit of its own time, and has at least a row.
            rounding = USD_STEP * segment.facts["rows"]
            assert abs(charged - usd_of_time(A_DOLLAR_A_SECOND, segment.facts["seconds"])) <= rounding
        overheads = sum((line.usd for segment in segments for line in segment.overheads), Decimal(0))
        rows = sum((Decimal(segment.facts["usd"]) for segment in segments), Decimal(0))
        assert receipt.counts["usd"] == rows + overheads


@FEW
@given(PROMPTS, st.sets(st.sampled_from(["one", "four"])))
def test_running_a_finished_job_again_changes_no_byte_and_starts_no_engine(
    prompts: list[str], failing: set[str]
) -> None:
    with bench(prompts) as this:
        first = this.run(lambda request: request.messages[0].content in failing)
        before, engines = everything(this.runs), this.engines
        again = this.run()
        assert everything(this.runs) == before
        assert this.engines == engines
        assert (again.counts, again.exit_code) == (first.counts, first.exit_code)


# Duplicates.


def test_equal_rows_are_run_once_and_cost_once(folder: Path) -> None:
    this = Bench(folder, ["hi there", "hi there", "hi there"])
    run = this.run().run
    assert this.fed == ["r0"]
    assert [(row["source"], row["usd"] > 0) for row in rows_of(run)] == [
        ("engine", True),
        ("exact", False),
        ("exact", False),
    ]


def test_without_exact_reuse_every_row_is_run(folder: Path) -> None:
    this = Bench(folder, ["hi there", "hi there"], reuse={"exact": False})
    this.run()
    assert sorted(this.fed) == ["r0", "r1"]


def test_rows_that_are_drawn_at_random_are_each_run(folder: Path) -> None:
    this = Bench(folder, ["hi there", "hi there"], sampling={"temperature": 0.5})
    this.run()
    assert sorted(this.fed) == ["r0", "r1"]


def test_a_drawn_row_with_a_seed_may_be_shared(folder: Path) -> None:
    this = Bench(folder, ["hi there", "hi there"], sampling={"temperature": 0.5, "seed": 1})
    this.run()
    assert this.fed == ["r0"]


def test_a_failure_is_shared_like_an_answer(folder: Path) -> None:
    this = Bench(folder, ["hi there", "hi there"])
    receipt = this.run(lambda request: True)
    assert errors(receipt.run) == {"r0": "E_ECHO", "r1": "E_ECHO"}
    assert receipt.exit_code == 1


# Death, stops and resumption.


def test_an_engine_that_dies_is_started_again_where_it_stopped(folder: Path) -> None:
    this = Bench(folder, ["a", "b", "c", "d", "e"])
    receipt = this.run(deaths=iter([2, 2]))
    assert (this.engines, this.fed, receipt.exit_code) == (3, ["r0", "r1", "r2", "r3", "r4"], 0)


def test_an_engine_that_gets_nothing_done_is_not_started_for_ever(folder: Path) -> None:
    this = Bench(folder, ["a"])
    with pytest.raises(EngineDied, match="told to die after 0 requests"):
        this.run(deaths=iter([0] * 9))
    assert this.engines == 1


def test_what_was_done_before_a_fatal_death_is_not_run_again(folder: Path) -> None:
    this = Bench(folder, ["a", "b", "c"])
    with pytest.raises(EngineDied):
        this.run(deaths=iter([2, 0]))
    this.run()
    assert this.fed == ["r0", "r1", "r2"]


class EarlyEngine(EchoEngine):
    """Ends after one answer, though nothing told it to."""

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        yield next(super().run(requests))


def test_an_engine_that_ends_early_counts_as_dead(folder: Path) -> None:
    this = Bench(folder, ["a", "b"])
    with pytest.raises(EngineDied, match="full: the engine ended without an answer for every row"):
        this.run(kind=EarlyEngine)


class TwiceEngine(EchoEngine):
    """Answers every request twice."""

    def run(self, requests: Iterator[Request]) -> Iterator[Completion]:
        for completion in super().run(requests):
            yield from (completion, completion)


def test_an_engine_that_answers_twice_does_not_settle_a_row_twice(folder: Path) -> None:
    this = Bench(folder, ["a", "b"])
    try:
        this.run(kind=TwiceEngine)
    except EngineDied:
        pass  # to end the run is as good
    [run] = this.runs.glob("*/run.json")
    assert max(Counter(row["row"] for row in rows_of(Run(run.parent))).values()) == 1


def test_an_interrupted_run_resumes_without_running_a_row_twice(folder: Path) -> None:
    def interrupt(request: Request) -> bool:
        if request.custom_id == "r1":
            signal.raise_signal(signal.SIGINT)
        return False

    this = Bench(folder, ["a", "b", "c", "d"])
    stopped = this.run(interrupt)
    assert (stopped.exit_code, stopped.counts["expired"]) == (130, 2)
    finished = this.run()
    assert (finished.exit_code, sorted(this.fed)) == (0, ["r0", "r1", "r2", "r3"])
    assert answers(finished.run) == {"r0": "a", "r1": "b", "r2": "c", "r3": "d"}


def test_a_budget_that_is_too_small_for_a_row_spends_nothing(folder: Path) -> None:
    # A dollar a second and a second of margin: half a dollar cannot begin.
    this = Bench(folder, ["a", "b"], budget={"usd": "0.5"})
    receipt = this.run()
    assert (receipt.exit_code, this.fed, receipt.counts["usd"]) == (3, [], 0)
    assert errors(receipt.run) == {"r0": "batch_expired", "r1": "batch_expired"}


def test_a_job_of_refused_rows_alone_ends_without_an_engine(folder: Path) -> None:
    this = Bench(folder, ["", ""])
    receipt = this.run()
    assert (this.engines, receipt.exit_code, receipt.counts["refused"]) == (0, 0, 2)


def test_every_start_of_an_engine_is_a_line_of_the_bill(folder: Path) -> None:
    this = Bench(folder, ["a", "b", "c"])
    run = this.run(deaths=iter([1])).run
    kinds = [line.kind for segment in read_segments(run.segments) for line in segment.overheads]
    assert kinds.count("start_up") == this.engines == 2


# Lanes.


def test_each_lane_answers_the_rows_that_are_routed_to_it(folder: Path) -> None:
    # Without a tokenizer no prompt is known to be short: the rule "short" sends every row to the full lane.
    models = {"full": "echo-model", "quantized": "echo-int8"}
    lanes = {}
    for rule in ("none", "short", "all"):
        this = Bench(folder, ["a"], model=models, route={"to_quantized": rule})
        lanes[rule] = [(row["lane"], row["model"]) for row in rows_of(this.run().run)]
    full, quantized = [("full", "echo-model")], [("quantized", "echo-int8")]
    assert lanes == {"none": full, "short": full, "all": quantized}


def test_tokens_are_billed_by_the_list(folder: Path) -> None:
    # "two words" echoed: 2 prompt tokens x 1 + 2 output tokens x 2, by the million = 0.000006.
    this = Bench(folder, ["two words"], price={"input_usd_per_mtok": "1", "output_usd_per_mtok": "2"})
    assert this.run().counts["usd"] == Decimal("0.000006")


def test_a_near_duplicate_of_a_failed_row_gets_a_try_of_its_own(folder: Path, near: dict[str, Any]) -> None:
    this, told = Bench(folder, ["is the sky blue", "is sky blue"], **near), iter([True, False])
    counts = this.run(fails=lambda request: next(told)).counts
    assert (counts["answered"], counts["failed"], counts["expired"]) == (1, 1, 0)
    assert sorted(this.fed) == ["r0", "r1"]
