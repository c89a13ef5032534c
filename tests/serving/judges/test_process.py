"""Judging in a child: what the command is told and allowed, and that it is never believed where it did not speak."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.intake.process import AskedToStop
from serving.judges.child import FILE_BYTES, MEMORY_BYTES
from serving.judges.command import Command
from serving.judges.process import CommandJudge
from serving.records import Comparison, Message

DOCS = Path(__file__).parents[3] / "docs"
EQUAL = """
import json, sys
for line in sys.stdin:
    pair = json.loads(line)
    print(json.dumps(pair["answer"] == pair["reference"]), flush=True)
"""
PAIRS = [("a", "a"), ("a", "b"), ("é\ud800\n", "é\ud800\n"), ("", "")]


def wait_for(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    """True if it runs no more, though nobody may have asked yet how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Judging:
    """A command of this Python code, and what it came to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.asked_to_stop = lambda: False

    def agree(self, code: str, pairs: list[tuple[str, str]] = PAIRS, timeout_s: float = 30.0) -> list[bool]:
        (self.folder / "check.py").write_text(code)
        command = Command.find([sys.executable, "check.py"], self.folder)
        messages = {row: (Message("user", f"question {row}"),) for row in range(len(pairs))}
        judge = CommandJudge(
            command, timeout_s, messages, self.folder / "log", lambda: self.asked_to_stop(), self.said.append
        )
        return judge.agree([Comparison(row, *pair) for row, pair in enumerate(pairs)])

    def told(self, code: str) -> Any:
        """What the code, which sets `told`, sees from within."""
        self.agree(f"import json, os, sys\n{code}\nprint(json.dumps(told), file=sys.stderr)", [("a", "a")])
        return json.loads((self.folder / "log").read_text())


@pytest.fixture
def judging(tmp_path: Path) -> Judging:
    return Judging(tmp_path)


def test_each_pair_gets_the_verdict_of_its_line(judging: Judging) -> None:
    assert judging.agree(EQUAL) == [True, False, True, True]
    assert judging.said == []


def test_the_example_of_the_docs_judges(judging: Judging) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (DOCS / "reuse.md").read_text(encoding="utf-8"), re.DOTALL)
    assert judging.agree(example, [("so it is 7", "7"), ("7", "8"), ("", "")]) == [True, False, True]
    assert judging.said == []


def test_verdicts_may_come_all_at_the_end(judging: Judging) -> None:
    code = "import sys; pairs = list(sys.stdin); print('true\\n' * len(pairs), end='')"
    assert judging.agree(code) == [True] * 4
    assert judging.agree(code.replace("end=''", "end='x'").replace("'true\\n' * len(pairs)", "'true'")) == [False] * 4


def test_many_pairs_pass_though_nobody_reads_while_they_are_written(judging: Judging) -> None:
    assert judging.agree(EQUAL, [("x" * 5000, "x" * 5000)] * 500) == [True] * 500


def test_it_is_told_the_request_the_answer_and_the_reference(judging: Judging) -> None:
    told = judging.told("told = json.loads(sys.stdin.readline())")
    request = [{"role": "user", "content": "question 0"}]
    assert told == {"request": request, "answer": "a", "reference": "a"}


def test_without_pairs_nothing_is_started(judging: Judging) -> None:
    assert judging.agree("raise SystemExit('started')", []) == []
    assert not (judging.folder / "log").exists()


# Where it did not speak, nothing agrees, and that is said once.


@pytest.mark.parametrize(
    ("code", "agrees", "said"),
    [
        ("print('true', flush=True); raise SystemExit(3)", [True, False], "3 of 4 pairs were not judged"),
        ("print('true', flush=True); raise SystemExit(3)", [True, False], "it ended with exit code 3"),
        ("import os; print('true', flush=True); os.abort()", [True, False], "SIGABRT ended it"),
        ("print('true\\nyes')", [True, False], "its line 2 is neither true nor false"),
        ("print('True')", [False], "its line 1 is neither true nor false"),
        ("print()", [False], "its line 1 is neither true nor false"),
        ("print('true' * 10**6)", [False], "its line 1 is neither true nor false"),
        ("print('true\\n' * 5)", [False], "it wrote more lines than there are pairs"),
        ("", [False], "it ended with exit code 0"),
    ],
)
def test_a_pair_that_is_not_judged_does_not_agree(judging: Judging, code: str, agrees: list[bool], said: str) -> None:
    assert judging.agree(code) == agrees + [False] * (4 - len(agrees))
    [line] = judging.said
    assert said in line
    assert str(judging.folder / "log") in line


def test_a_command_that_is_silent_for_too_long_is_ended(judging: Judging) -> None:
    began = time.monotonic()
    code = "import time; print('true', flush=True); time.sleep(60)"
    assert judging.agree(code, timeout_s=1.0) == [True, False, False, False]
    assert time.monotonic() - began < 20
    assert "it gave no verdict for 1 s (quality.command_timeout_s)" in judging.said[0]


def test_one_that_has_judged_all_is_believed_though_it_does_not_end(judging: Judging) -> None:
    assert judging.agree(f"{EQUAL}\nimport time; time.sleep(60)", timeout_s=1.0) == [True, False, True, True]
    assert judging.said == []


def test_what_it_started_ends_with_it(judging: Judging) -> None:
    pid = judging.told("import subprocess; told = subprocess.Popen(['sleep', '60']).pid")
    wait_for(lambda: has_ended(pid))


def test_it_can_be_stopped_and_then_nothing_is_judged(judging: Judging) -> None:
    began = time.monotonic()
    judging.asked_to_stop = lambda: time.monotonic() - began > 0.5
    with pytest.raises(AskedToStop):
        judging.agree("import time; print('true', flush=True); time.sleep(60)")
    assert time.monotonic() - began < 20
    assert judging.said == []


# What it is allowed.


def test_its_environment_is_empty_but_for_the_path_and_the_language(
    judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(judging.folder))
    monkeypatch.setenv("LANG", "C.UTF-8")
    told = judging.told("told = dict(os.environ)")
    told.pop("LC_CTYPE", None)  # Python sets it for itself
    assert told == {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def test_it_stands_in_an_empty_folder_that_is_gone_afterwards(judging: Judging) -> None:
    folder, there = judging.told("told = [os.getcwd(), os.listdir()]; open('left', 'w').close(); os.chmod('.', 0)")
    assert there == []
    assert not Path(folder).exists()


def test_it_leads_a_group_of_its_own(judging: Judging) -> None:
    pid, group = judging.told("told = [os.getpid(), os.getpgid(0)]")
    assert pid == group != os.getpgid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="not every system gives out network namespaces to its users")
def test_it_has_no_network(judging: Judging) -> None:
    found = judging.told("told = open('/proc/net/dev').read()")
    assert [line.split(":")[0].strip() for line in found.splitlines()[2:]] == ["lo"]


def test_it_has_its_limits(judging: Judging) -> None:
    limits = ", ".join(f"r.getrlimit(r.RLIMIT_{name})[0]" for name in ("DATA", "FSIZE", "CORE"))
    assert judging.told(f"import resource as r; told = [{limits}]") == [MEMORY_BYTES, FILE_BYTES, 0]


def test_memory_that_it_takes_too_much_of_is_not_given(judging: Judging) -> None:
    code = f"try:\n    bytearray({MEMORY_BYTES} + 1)\nexcept MemoryError:\n    told = 'refused'"
    assert judging.told(code) == "refused"


def test_it_gains_no_privilege_by_what_it_runs(judging: Judging) -> None:
    status = judging.told("told = open('/proc/self/status').read()")
    assert "NoNewPrivs:\t1" in status


def test_it_dies_with_us(judging: Judging) -> None:
    """Also if we are killed, and cannot end it."""
    told = judging.folder / "pid"
    (judging.folder / "check.py").write_text(
        f"import os, time; open({str(told)!r}, 'w').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    )
    program = (
        "import sys; from pathlib import Path; from serving.judges.command import Command; "
        "from serving.judges.process import CommandJudge; from serving.records import Comparison; "
        "command = Command.find([sys.executable, 'check.py'], Path.cwd()); "
        "CommandJudge(command, 60, {0: ()}, Path('log'), lambda: False, print).agree([Comparison(0, 'a', 'a')])"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program], cwd=judging.folder) as parent:
        wait_for(lambda: told.exists() and told.read_text().endswith("\n"))
        parent.kill()
    wait_for(lambda: has_ended(int(told.read_text())))
