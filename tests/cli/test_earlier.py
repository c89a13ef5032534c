"""Answers of earlier runs: taken by exact key, copied, and charged nothing; nothing is taken from what is not alike."""

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, Place, digests, read_jsonl, row, rows

OLD, NEW = rows(6), rows(8)[6:]


def body(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = line["response"]["body"]
    return found


def sources(run: Path) -> dict[str, str]:
    return {line["custom_id"]: body(line)["gristmill"]["source"] for line in read_jsonl(run / "export/results.jsonl")}


def told(run: Path) -> dict[str, tuple[str, str]]:
    """By custom_id, what was answered and what it used, byte for byte."""
    lines = read_jsonl(run / "export/results.jsonl")
    return {line["custom_id"]: (json.dumps(body(line)["choices"]), json.dumps(body(line)["usage"])) for line in lines}


def next_run(place: Place, prompts: list[dict[str, Any]], *arguments: str) -> tuple[Path, Done]:
    """The run that these prompts make beside those that there are."""
    before = set(place.runs)
    place.prompts(prompts)
    done = place.gristmill("run", "job.toml", *arguments)
    (run,) = set(place.runs) - before
    return run, done


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Path, Path, Done]:
    """A run, and one of whose eight rows it has answered six; one of these stands there twice."""
    place = Place(tmp_path_factory.mktemp("earlier"))
    place.job()
    first, _ = next_run(place, OLD)
    later, done = next_run(place, [NEW[0], *reversed(OLD), row("again", "prompt number 3"), NEW[1]])
    assert done.code == 0
    return place, first, later, done


Second = tuple[Place, Path, Path, Done]


def test_only_new_rows_are_run(second: Second) -> None:
    place, _, later, done = second
    assert "6 requests were answered by earlier runs" in done.err
    assert "(2 requests)" in done.err
    assert [custom_id for custom_id, source in sources(later).items() if source == "engine"] == ["id-6", "id-7"]
    assert sum(source == "earlier" for source in sources(later).values()) == 6
    assert place.gristmill("verify", later.name).code == 0


def test_a_taken_answer_is_what_it_was_byte_for_byte_with_what_it_used(second: Second) -> None:
    _, first, later, _ = second
    assert told(first).items() <= told(later).items()


def test_a_duplicate_of_a_taken_row_has_its_answer(second: Second) -> None:
    _, _, later, _ = second
    assert told(later)["again"] == told(later)["id-3"]
    assert {sources(later)["again"], sources(later)["id-3"]} == {"exact", "earlier"}


def test_a_taken_answer_costs_nothing_and_the_steps_of_the_saving_add_up(second: Second) -> None:
    place, _, later, _ = second
    of_run = f"WHERE run_id = '{later.name}'"
    (cost,) = place.ask(
        f"SELECT sum(usd)::VARCHAR AS usd, sum(engine_s) AS s FROM rows {of_run} AND source = 'earlier'"
    )
    assert (Decimal(cost["usd"]), cost["s"]) == (0, 0)
    lines = place.ask(f"SELECT step, saved_usd FROM savings {of_run}")
    steps = {line["step"]: Decimal(line["saved_usd"]) for line in lines}
    assert steps["answers of earlier runs"] > 0
    (whole,) = place.ask(f"SELECT baselines.usd - bills.usd AS saved FROM baselines JOIN bills USING (run_id) {of_run}")
    assert sum(steps.values()) == Decimal(whole["saved"])


def test_the_receipt_counts_what_was_answered_earlier_and_what_that_saved(second: Second) -> None:
    out = second[3].out
    assert re.search(r"earlier +6 answered by earlier runs, and paid for there", out)
    assert re.search(r"\+\d+\.\d+  answers of earlier runs", out)


def test_the_ledger_tells_from_which_run_and_row_an_answer_is(second: Second) -> None:
    place, first, later, _ = second
    found = place.ask("SELECT run_id, from_run, row, from_row FROM earlier ORDER BY row")
    assert {(line["run_id"], line["from_run"]) for line in found} == {(later.name, first.name)}
    assert {(line["row"], line["from_row"]) for line in found} <= {(at + 1, 5 - at) for at in range(6)} | {(7, 3)}
    assert json.loads(place.gristmill("costs", "earlier", "--format", "json").out)[0]["requests"] == 6


def test_nothing_rests_on_the_earlier_run_once_its_answers_are_taken(second: Second, tmp_path: Path) -> None:
    place = Place(Path(shutil.copytree(second[0].folder, tmp_path / "copy")))
    shutil.rmtree(place.folder / "runs" / second[1].name)
    run, before = place.only_run, digests(place.only_run)
    assert place.gristmill("verify").code == 0
    assert place.gristmill("run", "job.toml", "--quiet").code == 0
    assert digests(run) == before


def test_an_answer_that_was_taken_can_be_taken_again(second: Second, tmp_path: Path) -> None:
    place = Place(Path(shutil.copytree(second[0].folder, tmp_path / "copy")))
    shutil.rmtree(place.folder / "runs" / second[1].name)
    run, _ = next_run(place, OLD[:2])
    assert set(sources(run).values()) == {"earlier"}
    assert told(run).items() <= told(second[1]).items()


def test_where_all_is_taken_no_engine_starts(place: Place) -> None:
    next_run(place, OLD)
    run, done = next_run(place, OLD[1:])
    assert (done.code, "starting" in done.err) == (0, False)
    assert set(sources(run).values()) == {"earlier"}
    assert place.ask(f"SELECT usd::DOUBLE AS usd FROM bills WHERE run_id = '{run.name}'") == [{"usd": 0.0}]
    assert "5 = 5 answered + 0 refused + 0 failed + 0 expired" in done.out
    assert "starting" not in place.gristmill("run", "job.toml").err


@pytest.mark.parametrize("setting", ["tenant.name=another", "sampling.max_tokens=2", "reuse.earlier=false"])
def test_under_another_setting_nothing_is_taken(place: Place, setting: str) -> None:
    next_run(place, OLD)
    run, _ = next_run(place, OLD, "--set", setting)
    assert set(sources(run).values()) == {"engine"}


def test_a_row_that_failed_is_tried_again(place: Place) -> None:
    _, done = next_run(place, OLD, "--set", 'engine.echo_fails=["id-2"]')
    assert done.code == 1
    run, done = next_run(place, OLD[1:])
    assert done.code == 0
    assert [custom_id for custom_id, source in sources(run).items() if source == "engine"] == ["id-2"]


def test_a_run_that_is_not_what_was_written_is_passed_over_and_named(place: Place) -> None:
    next_run(place, OLD[:2])
    spoilt, _ = next_run(place, OLD[2:])
    (file,) = spoilt.glob("segments/*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run, done = next_run(place, OLD)
    assert f"no answer is taken from {spoilt.name}: {file.relative_to(place.folder)}: bytes" in done.err
    assert list(sources(run).values()) == ["earlier"] * 2 + ["engine"] * 4


def test_a_stopped_run_gives_what_it_has_paid_for(place: Place) -> None:
    _, done = next_run(place, rows(40), "--set", "engine.echo_s=0.1", "--set", "budget.usd=2.5")
    assert done.code == 3
    answered = re.search(r"(\d+) answered", done.out)
    assert answered is not None
    run, _ = next_run(place, rows(41))
    assert sum(source == "earlier" for source in sources(run).values()) == int(answered[1]) > 0


def test_a_plan_counts_them_as_done(place: Place) -> None:
    next_run(place, OLD)
    place.prompts([*OLD, row("again", "prompt number 0"), *NEW, row("new again", "prompt number 7")])
    done = place.gristmill("plan", "job.toml")
    assert "10 = 2 to run + 1 that share another's answer + 0 refused + 7 settled already" in done.out
    assert "(2 requests)" in place.gristmill("run", "job.toml").err


def test_an_answer_that_was_not_decided_to_be_taken_is_found(second: Second, tmp_path: Path) -> None:
    place = Place(Path(shutil.copytree(second[0].folder, tmp_path / "copy")))
    run = place.folder / "runs" / second[2].name
    (run / "export/finished.json").unlink()
    (run / "decisions/earlier.json").unlink()
    done = place.gristmill("verify", run.name)
    assert done.code == 4
    assert "row 1 has an earlier run's answer, but" in done.err
