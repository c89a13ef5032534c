"""A run that is stopped, by a person, a budget or a kill, is resumed by the same command and loses nothing."""

import shutil
import signal
import subprocess
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from serving.store.segments import journals
from tests.cli.command import LIMIT_S, Place, digests, kill, one_line, read_jsonl, rows, wait_until

SLOW = ("--set", "engine.echo_s=0.02")
PROMPTS = 150  # three seconds of work at that pace


@pytest.fixture
def slow(place: Place) -> Place:
    place.prompts(rows(PROMPTS))
    return place


def is_running(place: Place) -> bool:
    """True once the engine has started: its log's folder is made just before."""
    return any(place.folder.glob("runs/*/logs"))


def started(place: Place) -> "subprocess.Popen[str]":
    process = place.start(*SLOW)
    wait_until(lambda: is_running(place), process)
    time.sleep(0.3)  # some rows
    return process


def all_answered(place: Place) -> bool:
    return place.answers() == {f"id-{number}": f"prompt number {number}" for number in range(PROMPTS)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_a_run_in_good_order_is_told_130_too(slow: Place, number: signal.Signals) -> None:
    process = started(slow)
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert 0 < slow.durable_rows < PROMPTS


def test_an_interrupted_run_says_130_keeps_what_it_did_and_resumes(slow: Place) -> None:
    process = started(slow)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "stopped (interrupted)" in out
    done_before = slow.durable_rows
    assert 0 < done_before < PROMPTS
    assert len(slow.errors) == PROMPTS - done_before  # each of them as batch_expired
    assert slow.run().code == 0
    assert all_answered(slow)
    assert slow.errors == []


def test_a_budget_stops_the_run_before_it_is_passed_and_a_larger_one_resumes_it(slow: Place) -> None:
    # A dollar a second; 1.40 less the margin of one second leaves 0.4 s of work, some 20 of 150 rows.
    stopped = slow.run(*SLOW, "--set", "budget.usd=1.40")
    assert stopped.code == 3
    assert "stopped (budget)" in stopped.out
    (bill,) = slow.ask("SELECT usd::VARCHAR AS usd, answered FROM bills")
    assert Decimal(0) < Decimal(bill["usd"]) <= Decimal("1.40")
    assert 0 < bill["answered"] < PROMPTS
    assert slow.run("--set", "budget.usd=100").code == 0
    assert all_answered(slow)


def test_a_budget_that_bears_nothing_starts_no_row(slow: Place) -> None:
    stopped = slow.run("--set", "budget.usd=0.5")
    assert stopped.code == 3
    assert slow.durable_rows == 0


def test_a_second_writer_is_told_who_holds_the_run(slow: Place) -> None:
    first = started(slow)
    second = slow.run()
    kill(first)
    assert second.code == 2
    said = one_line(second.err)
    assert f"process {first.pid} on " in said
    assert slow.only_run.name in said


def test_a_holder_that_hangs_is_superseded_and_finds_out_when_it_wakes(slow: Place) -> None:
    hanging = started(slow)
    hanging.send_signal(signal.SIGSTOP)
    assert slow.run().code == 2
    taken = slow.run("--take-over")
    hanging.send_signal(signal.SIGCONT)
    _, err = hanging.communicate(timeout=LIMIT_S)
    assert (taken.code, hanging.returncode) == (0, 6)
    assert "was taken over by process" in err.splitlines()[-1]
    assert all_answered(slow)
    assert slow.gristmill("verify").code == 0


PACE = ("--set", "engine.echo_s=0.002", "--set", "engine.echo_audit=spent.jsonl")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run with sealed segments, of a process that was stopped, and rows in a journal, of one that SIGKILL ended."""
    place = Place(tmp_path_factory.mktemp("killed"))
    place.job()
    place.prompts(rows(2000))
    for stop in (lambda process: (process.send_signal(signal.SIGINT), process.communicate(timeout=LIMIT_S)), kill):
        before = place.durable_rows
        process = place.start("--quiet", *PACE)
        wait_until(lambda: place.durable_rows > before, process)  # noqa: B023
        time.sleep(0.2)  # some rows that are not durable yet
        stop(process)
    assert len(place.segments) >= 1
    assert sum(1 for _ in journals(place.only_run / "segments")) == 1
    return place


def test_right_after_a_kill_the_status_is_stopped(killed: Place) -> None:
    done = killed.gristmill("status")
    assert (done.code, done.err) == (0, "")
    assert "stopped; run its job again to resume it" in done.out
    assert done.wall_s < 2.0  # one second by design; another for a busy machine


def test_the_status_counts_what_is_durable_though_no_segment_has_it_yet(killed: Place) -> None:
    assert 0 < killed.durable_rows < 2000
    assert f"rows in 2000 = {killed.durable_rows} answered" in killed.gristmill("status").out


def test_a_killed_run_verifies(killed: Place) -> None:
    assert killed.gristmill("verify").code == 0


def test_a_killed_run_can_be_exported_with_its_open_rows_as_expired(killed: Place, tmp_path: Path) -> None:
    copy = copied(killed, tmp_path)
    assert copy.gristmill("export").code == 0
    assert len(copy.results) + len(copy.errors) == 2000
    assert {line["error"]["code"] for line in copy.errors} == {"batch_expired"}


def test_a_killed_run_resumes_with_no_row_lost_or_twice_and_its_waste_shown(killed: Place, tmp_path: Path) -> None:
    place = copied(killed, tmp_path)
    before = {name: digest for name, digest in digests(place.only_run).items() if name.startswith("segments/0001-")}
    done = place.run(*PACE)
    assert done.code == 0
    assert place.answers() == {f"id-{number}": f"prompt number {number}" for number in range(2000)}
    # Some 0.2 s passed between the last commit and the kill; at a dollar a second that is money.
    (waste,) = place.ask("SELECT sum(seconds) AS seconds, sum(usd)::DOUBLE AS usd FROM waste")
    assert 0.05 < waste["seconds"] < 2.0
    assert waste["usd"] == pytest.approx(waste["seconds"], rel=1e-4)
    assert "waste" in done.out
    assert place.gristmill("verify").code == 0
    after = digests(place.only_run)
    assert before
    assert {name: after[name] for name in before} == before


def test_every_token_that_a_killed_run_ever_spent_is_in_a_row_or_in_waste(killed: Place, tmp_path: Path) -> None:
    place = copied(killed, tmp_path)
    durable = place.durable_rows
    place.run(*PACE)
    spent = read_jsonl(place.folder / "spent.jsonl")
    (booked,) = place.ask(
        "SELECT (SELECT sum(prompt_tokens + completion_tokens) FROM rows WHERE source = 'engine')"
        " + (SELECT sum(tokens) FROM waste) AS tokens, (SELECT sum(tokens) FROM waste) AS wasted"
    )
    assert int(booked["tokens"]) == sum(line["prompt_tokens"] + line["completion_tokens"] for line in spent)
    assert int(booked["wasted"]) > 0
    times = Counter(line["custom_id"] for line in spent)
    assert sum(1 for count in times.values() if count == 1) >= durable  # what was durable was not run again


def test_a_kill_during_the_first_answer_is_wasted_time_too(place: Place) -> None:
    """An engine that is killed before it has answered anything has run all the same."""
    place.prompts(rows(2))
    process = place.start("--set", "engine.echo_s=5")
    wait_until(lambda: is_running(place), process)
    time.sleep(0.6)
    kill(process)
    assert place.segments == []
    assert place.run().code == 0
    (waste,) = place.ask("SELECT coalesce(sum(seconds), 0) AS seconds FROM overheads WHERE kind = 'waste'")
    assert 0.4 < waste["seconds"] < 3.0


def copied(place: Place, folder: Path) -> Place:
    shutil.copytree(place.folder, folder, dirs_exist_ok=True)
    return Place(folder)
