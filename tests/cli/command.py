"""The command `gristmill` as a user has it: a process of its own, in a folder of its own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.costs import costs
from serving.store.segments import durable_outcomes, read_segments
from tests.cli.prefork import forked

COMMAND = str(Path(sys.executable).parent / "gristmill")
ONE_DOLLAR_A_SECOND = 3600
LIMIT_S = 60


def row(custom_id: str, prompt: str, **body: Any) -> dict[str, Any]:
    """A line of OpenAI Batch input."""
    return {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": prompt}], **body}}


def rows(count: int) -> list[dict[str, Any]]:
    return [row(f"id-{number}", f"prompt number {number}") for number in range(count)]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    wall_s: float
    cpu_s: float
    most_mib: float


@dataclass(frozen=True, slots=True)
class Place:
    """A working folder with a job file, its input and its runs."""

    folder: Path

    def job(
        self,
        dataset: str = 'path = "prompts.jsonl"',
        engine: str = 'kind = "echo"',
        model: str = "echo",
        more: str = "",
    ) -> None:
        price = f"usd_per_hour = {ONE_DOLLAR_A_SECOND}"
        sections = {"dataset": dataset, "model": f'full = "{model}"', "engine": engine, "price": price}
        text = "\n".join(f"[{name}]\n{content}\n" for name, content in sections.items())
        self.write("job.toml", text + more)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return file

    def prompts(self, values: list[Any], name: str = "prompts.jsonl") -> None:
        self.write(name, "".join(json.dumps(value) + "\n" for value in values))

    def gristmill(self, *arguments: str, limit_s: float = LIMIT_S, **environment: str) -> Done:
        began = time.monotonic()
        done = forked(arguments, self.folder, _environment() | environment, limit_s)
        return Done(done.code, done.out, done.err, time.monotonic() - began, done.cpu_s, done.most_mib)

    def run(self, *arguments: str, **environment: str) -> Done:
        return self.gristmill("run", "job.toml", "--quiet", *arguments, **environment)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`run`, not waited for."""
        command = [COMMAND, "run", "job.toml", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=_environment(), stdout=pipe, stderr=pipe, encoding="utf-8"
        )

    @property
    def runs(self) -> list[Path]:
        return sorted(file.parent for file in (self.folder / "runs").glob("*/run.json"))

    @property
    def only_run(self) -> Path:
        (run,) = self.runs
        return run

    @property
    def segments(self) -> list[Path]:
        """The manifests of sealed segments of all runs."""
        folders = (run / "segments" for run in self.runs)
        return [segment.manifest for folder in folders for segment in read_segments(folder)]

    @property
    def durable_rows(self) -> int:
        """How many rows of all runs are durable: in sealed segments, and in journals."""
        return sum(durable_outcomes(run / "segments").total() for run in self.runs)

    @property
    def results(self) -> list[dict[str, Any]]:
        return read_jsonl(self.only_run / "export" / "results.jsonl")

    @property
    def errors(self) -> list[dict[str, Any]]:
        return read_jsonl(self.only_run / "export" / "errors.jsonl")

    def answers(self) -> dict[str, str]:
        """By custom_id, what was answered; an id that stands twice is an error."""
        found = [
            (line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"]) for line in self.results
        ]
        assert len(dict(found)) == len(found), "an id came out twice"
        return dict(found)

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """A question to the ledger, in this process: it is asked to check something else than the command."""
        found: list[dict[str, Any]] = json.loads(costs(self.folder / "runs", None, sql, "json"))
        return found


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, with the digest of its bytes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]", limit_s: float = 20.0) -> None:
    give_up = time.monotonic() + limit_s
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before: {process.communicate()}"
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.01)


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL, and proof that it was this that ended the process."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGKILL


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def _environment() -> dict[str, str]:
    """Ours, without what would make a job another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "PREFECT_"))}
