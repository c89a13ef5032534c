"""The judge that a job names decides what an audit finds; one that cannot speak never agrees."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.answer import answer
from flows.judging import Pair, judged
from flows.limits import Stopped, StopReason
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import BadJob, parse_job
from serving.reuse.embed import HashEmbedder
from serving.store.ledger import ask, open_ledger

Open = Callable[..., Any]
PAIRS = 60
ANSWERS: list[Pair] = [(0, ["the sky"], ["the sky"]), (1, ["the sky", "a"], ["the  sky", "b"]), (1, ["a"], ["a", "a"])]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's folder; embeddings without a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda path: HashEmbedder(4096))
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="hashes", files={}))


def check(code: str) -> dict[str, Any]:
    """A job's quality section: a command of this code, which is given each `pair` and sets `agrees`."""
    lines = ["import json, sys", "for line in sys.stdin:", "    pair = json.loads(line)", f"    {code}"]
    Path("check.py").write_text("\n".join([*lines, "    print(json.dumps(agrees), flush=True)\n"]))
    return {"judge": "command", "command": ["python3", "check.py"]}


def opening(opened: Open, near: dict[str, Any], *prompts: str, **quality: Any) -> Any:
    return opened(*(prompts or ("is the sky blue", "is sky blue")), quality=quality, **near)


@pytest.mark.parametrize(
    ("quality", "agrees"),
    [
        ({"judge": "exact"}, [True, False, False]),
        ({"judge": "normalised"}, [True, False, False]),
        ({"judge": "embedding"}, [True, False, False]),
        ({"judge": "embedding", "min_similarity": 1e-9}, [True, False, False]),
    ],
)
def test_as_many_answers_each_of_which_agrees(
    opened: Open, near: dict[str, Any], quality: dict[str, Any], agrees: list[bool]
) -> None:
    with opening(opened, near, **quality) as work:
        assert judged(work, ANSWERS).agrees.tolist() == agrees
        assert judged(work, []).agrees.tolist() == []
        assert judged(work, [(1, ["the sky"], ["THE SKY"])]).agrees.tolist() == [quality["judge"] != "exact"]


def test_a_command_is_told_the_request_of_each_pair(opened: Open, near: dict[str, Any]) -> None:
    quality = check('agrees = pair["answer"] == pair["request"][0]["content"]')
    with opening(opened, near, **quality) as work:
        pairs: list[Pair] = [(1, ["is sky blue"], ["x"]), (0, ["is the sky blue"], ["x"]), (0, ["is sky blue"], ["x"])]
        assert judged(work, pairs).agrees.tolist() == [True, True, False]


@pytest.mark.parametrize("judge", ["embedding", "command"])
def test_a_stop_leaves_nothing_judged(opened: Open, near: dict[str, Any], judge: str) -> None:
    quality = check("import time; time.sleep(60)") if judge == "command" else {"judge": judge}
    with opening(opened, near, **quality) as work:
        work.limits.reason = StopReason.INTERRUPTED
        with pytest.raises(Stopped):
            judged(work, [(0, ["a"], ["b"])])


def test_a_command_that_is_changed_while_the_run_goes_on_is_not_asked(opened: Open, near: dict[str, Any]) -> None:
    with opening(opened, near, **check("agrees = False")) as work:
        check("agrees = True")
        with pytest.raises(BadJob, match=r"check\.py was changed while the run went on"):
            judged(work, ANSWERS)


# In a run.


class Telling(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def ran(folder: Path, progress: Silent, **quality: Any) -> Receipt:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"{letters[n // 26]}{letters[n % 26]}word" for n in range(PAIRS)]
    prompts = [f"{name} explains why {the}{name}s are blue" for name in names for the in ("", "the ")]
    lines = (
        {"custom_id": f"r{n}", "body": {"messages": [{"role": "user", "content": text}]}}
        for n, text in enumerate(prompts)
    )
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": "echo-model"},
        "engine": {"kind": "echo"},
        "price": {"usd_per_hour": "3600"},
        "reuse": {"semantic": True, "min_similarity": 0.8, "embedder": "hashes"},
        "quality": {"max_wrong": 0.2, "repeats": 0, **quality},
    }
    return answer(parse_job(job, "job"), folder / "runs", progress)


def found(receipt: Receipt) -> tuple[int, int, bool]:
    """(audited, wrong, certified), of all looks together."""
    with open_ledger(receipt.run.folder.parent) as ledger:
        return ask(ledger, "SELECT sum(audited), sum(wrong), bool_or(certified) FROM certificates").rows[0]


def test_what_a_command_takes_for_the_same_is_certified(tmp_path: Path) -> None:
    telling = Telling()
    audited, wrong, certified = found(ran(tmp_path, telling, **check("agrees = True")))
    assert (wrong, certified) == (0, True)
    assert 0 < audited < PAIRS
    assert not any("quality.command" in line for line in telling.said)


def test_a_command_that_breaks_certifies_nothing_and_that_is_said_once(tmp_path: Path) -> None:
    telling = Telling()
    audited, wrong, certified = found(ran(tmp_path, telling, **check("raise SystemExit('no')")))
    assert (wrong, certified) == (audited, False)
    [line] = [line for line in telling.said if "quality.command" in line]
    assert f"{audited} of {audited} pairs were not judged and count as wrong, since it ended with exit code 1" in line
    log = Path(line.rpartition(" ")[2])
    assert log.read_text() == "no\n"


def test_another_command_is_another_run_and_the_same_one_resumes(tmp_path: Path) -> None:
    first = ran(tmp_path, Silent(), **check("agrees = True")).run.run_id
    assert ran(tmp_path, Silent(), **check("agrees = True")).run.run_id == first
    assert ran(tmp_path, Silent(), **check("agrees = False")).run.run_id != first
