"""The sample job with the real vLLM and the real models: killed in the middle, resumed, and looked at all over."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serving.store.segments import durable_outcomes

ROOT = Path(__file__).parents[2]
GRISTMILL = ROOT / ".venv" / "bin" / "gristmill"
LIMIT_S = 400

pytestmark = pytest.mark.real


def gristmill(runs: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(GRISTMILL), "--runs", str(runs), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


def live_engines(runs: Path) -> list[int]:
    """Of these runs: an engine's command line names a log of its run."""
    found = subprocess.run(["pgrep", "-f", f"vllm_worker.py.*{runs}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# The sample with near-duplicates, of which so few can be certified only if many may be wrong.
JOB = ("datasets/sample.toml", "--set", "reuse.semantic=true", "--set", "quality.max_wrong=0.4")


def durable_rows(runs: Path) -> int:
    return sum(durable_outcomes(run.parent / "segments").total() for run in runs.glob("*/run.json"))


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The run folder of the sample job, the receipt of its second start, and the rows that survived the kill."""
    runs = tmp_path_factory.mktemp("runs")
    started = subprocess.Popen(
        [str(GRISTMILL), "--runs", str(runs), "run", *JOB],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    give_up = time.monotonic() + LIMIT_S
    while durable_rows(runs) < 20:
        assert started.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < give_up
        time.sleep(0.1)
    time.sleep(0.7)  # less than the second after which more would be durable: this much is thrown away
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    survived = durable_rows(runs)
    _wait_until_no_engine_is_left(runs)

    done = gristmill(runs, "run", *JOB)
    assert done.returncode == 0, done.stderr
    return next(runs.glob("*/run.json")).parent, done.stdout, survived


def _wait_until_no_engine_is_left(runs: Path) -> None:
    give_up = time.monotonic() + 5.0
    while live_engines(runs):
        assert time.monotonic() < give_up, "an engine outlived its killed parent by five seconds"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def answers(killed_and_resumed: tuple[Path, str, int]) -> dict[str, dict[str, Any]]:
    run, _, _ = killed_and_resumed
    return {line["custom_id"]: line["response"]["body"] for line in lines(run / "export" / "results.jsonl")}


@pytest.fixture(scope="module")
def asked() -> dict[str, dict[str, Any]]:
    good = {}
    for text in (ROOT / "datasets/sample/prompts.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if not row["custom_id"].startswith("bad-"):
            good[row["custom_id"]] = row
    return good


def test_every_good_row_is_answered_exactly_once_after_a_kill(
    killed_and_resumed: tuple[Path, str, int], asked: dict[str, Any]
) -> None:
    run, _, survived = killed_and_resumed
    ids = Counter(line["custom_id"] for line in lines(run / "export" / "results.jsonl"))

    assert 0 < survived < len(asked)
    assert ids == Counter(asked.keys())


def test_the_receipt_adds_up_and_shows_what_the_kill_threw_away(killed_and_resumed: tuple[Path, str, int]) -> None:
    _, receipt, _ = killed_and_resumed

    assert "398 = 393 answered + 5 refused + 0 failed + 0 expired" in receipt
    assert " waste " in receipt


def test_the_five_bad_rows_are_refused_with_file_and_line(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    errors = lines(run / "export" / "errors.jsonl")

    assert [(error["error"]["line"], error["error"]["code"]) for error in errors] == [
        (52, "E_JSON"),
        (135, "E_PROMPT"),
        (205, "E_FIELD_FORBIDDEN"),
        (280, "E_PARAM"),
        (363, "E_MESSAGES"),
    ]
    assert {error["error"]["file"] for error in errors} == {"datasets/sample/prompts.jsonl"}


def test_both_lanes_ran_and_the_prefix_cache_was_hit(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    told = json.loads(gristmill(run.parent, "costs", "by-lane", "--format", "json").stdout)

    assert {lane["lane"] for lane in told if lane["rows_run"] > 0} == {"full", "quantized"}
    assert sum(lane["cached_tokens"] for lane in told) > 0


def test_the_ledger_adds_up_to_its_bill(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    sql = "SELECT sum(rows.usd) = any_value(rows_usd) AS equal, count(*) AS rows FROM rows JOIN bills USING (run_id)"
    told = json.loads(gristmill(run.parent, "costs", "--sql", sql, "--format", "json").stdout)

    assert told == [{"equal": True, "rows": 393}]


def test_verify_finds_every_hash_as_written(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed

    assert gristmill(run.parent, "verify").returncode == 0


def test_a_second_time_no_engine_starts_and_no_byte_changes(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    began = time.monotonic()
    again = gristmill(run.parent, "run", *JOB, "--prefect")

    assert again.returncode == 0
    assert time.monotonic() - began < 10.0
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_schema_is_obeyed(answers: dict[str, Any], asked: dict[str, Any]) -> None:
    bound = [row_id for row_id, row in asked.items() if "response_format" in row["body"]]
    given = [json.loads(answers[row_id]["choices"][0]["message"]["content"]) for row_id in bound]

    assert len(bound) >= 2
    assert all(answer.keys() == {"answer"} and answer["answer"] in "ABCD" for answer in given)


def test_n_choices_come_back_and_the_seed_makes_them_two_draws(answers: dict[str, Any], asked: dict[str, Any]) -> None:
    double = [row_id for row_id, row in asked.items() if row["body"].get("n") == 2]

    assert len(double) >= 4
    assert all(len(answers[row_id]["choices"]) == 2 for row_id in double)


def test_max_tokens_is_never_passed(answers: dict[str, Any], asked: dict[str, Any]) -> None:
    for row_id, row in asked.items():
        allowed = row["body"]["max_tokens"] * row["body"].get("n", 1)
        assert answers[row_id]["usage"]["completion_tokens"] <= allowed, row_id


def test_a_stop_text_is_never_in_the_answer(answers: dict[str, Any], asked: dict[str, Any]) -> None:
    stopped = {row_id: row["body"]["stop"] for row_id, row in asked.items() if "stop" in row["body"]}

    assert stopped
    for row_id, stops in stopped.items():
        text = answers[row_id]["choices"][0]["message"]["content"]
        assert not any(stop in text for stop in stops), row_id


def test_logprobs_come_one_a_token_with_alternatives(answers: dict[str, Any], asked: dict[str, Any]) -> None:
    wanted = [row_id for row_id, row in asked.items() if row["body"].get("logprobs")]

    assert wanted
    for row_id in wanted:
        tokens = answers[row_id]["choices"][0]["logprobs"]["content"]
        assert len(tokens) == answers[row_id]["usage"]["completion_tokens"]
        assert all(len(token["top_logprobs"]) >= 2 for token in tokens)


def test_exact_duplicates_get_the_same_answer_for_nothing(answers: dict[str, Any]) -> None:
    copies = [row_id for row_id in answers if "-again" in row_id and answers[row_id]["gristmill"]["source"] == "exact"]

    assert len(copies) >= 30
    for row_id in copies:
        assert answers[row_id]["gristmill"]["usd"] in {"0E-12", "0.000000000000", "0"}, row_id


def test_no_answer_is_shared_without_a_certificate(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    sql = (
        "SELECT (SELECT count(*) FROM rows WHERE source = 'semantic') AS shared,"
        " (SELECT coalesce(sum(rows - audited), 0) FROM certificates WHERE certified) AS covered,"
        " (SELECT count(*) FROM verdicts) AS judged"
    )
    [found] = json.loads(gristmill(run.parent, "costs", "--sql", sql, "--format", "json").stdout)
    assert found["shared"] <= found["covered"]
    assert found["judged"] > 0


def test_near_duplicates_are_paraphrases_and_never_templates(killed_and_resumed: tuple[Path, str, int]) -> None:
    run, _, _ = killed_and_resumed
    sql = (
        "SELECT a.custom_id AS a, b.custom_id AS b FROM near JOIN requests AS a USING (run_id, row) "
        "JOIN requests AS b ON b.run_id = near.run_id AND b.row = near.answered_by"
    )
    shared = json.loads(gristmill(run.parent, "costs", "--sql", sql, "--format", "json").stdout)

    assert len(shared) >= 25
    for pair in shared:
        family, number = pair["a"].split("-")[:2]
        assert family in {"disflqa", "boolq"}, pair
        assert pair["b"].startswith(f"{family}-{number}"), pair
