"""A small job in a folder of its own, with all that can befall a row, and what must come out of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from flows.settlement import COMMIT_ROWS
from tests.faults.process import Start

FAILING = "let-this-fail"
SIZES: dict[str, float] = {"COMMIT_ROWS": 3, "COMMIT_S": 3600.0, "SEAL_ROWS": 7, "SEAL_S": 3600.0}
BY_THE_HOUR = "usd_per_hour = 3600"
BY_TOKENS = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 2"
SHORT_TOKENS = 24
MAX_TOKENS = 32


class End(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Expected:
    custom_id: str
    end: End
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    custom_id: str
    prompt: str

    @property
    def line(self) -> str:
        body = {"messages": [{"role": "user", "content": self.prompt}]}
        return json.dumps({"custom_id": self.custom_id, "body": body}) + "\n"

    @property
    def expected(self) -> Expected:
        """The double says the words of the prompt."""
        if not self.prompt.strip():
            return Expected(self.custom_id, End.REFUSED)
        if FAILING in self.prompt:
            return Expected(self.custom_id, End.FAILED)
        return Expected(self.custom_id, End.ANSWERED, " ".join(self.prompt.split()[:MAX_TOKENS]))


@dataclass(frozen=True, slots=True)
class Job:
    """A folder with a job file and its input; `runs` and what the double spent are made by running it."""

    folder: Path
    rows: tuple[Row, ...]
    shipped: bool = False  # with the sizes that the command is shipped with, not SIZES
    clock_seed: int | None = None
    variables: tuple[tuple[str, str], ...] = ()  # of the environment

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def audit(self) -> Path:
        """What the double notes as it spends; outside the run folder."""
        return self.folder / "spent.jsonl"

    @property
    def window_rows(self) -> int:
        """So many rows may be worked on and not yet be durable."""
        return COMMIT_ROWS if self.shipped else int(SIZES["COMMIT_ROWS"])

    def start(self, *calls: Sequence[str], variables: dict[str, str] | None = None, **more: Any) -> Start:
        """A process of this job; without calls, a run of it."""
        return Start(
            self.folder,
            [list(call) for call in calls] or [RUN],
            environment=dict(self.variables) | (variables or {}),
            constants={} if self.shipped else SIZES,
            clock_seed=self.clock_seed,
            **more,
        )

    def with_clock(self, seed: int) -> "Job":
        return replace(self, clock_seed=seed)


RUN = ["run", "job.toml", "--quiet"]
VERIFY = ["verify"]
STATUS = ["status"]


def make_job(
    folder: Path,
    rows: Sequence[Row],
    price: str = BY_THE_HOUR,
    two_lanes: bool = False,
    echo_s: float = 0.0,
    shipped: bool = False,
    variables: dict[str, str] | None = None,
) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder, tuple(rows), shipped, variables=tuple((variables or {}).items()))
    model, route = 'full = "echo"', ""
    if two_lanes:
        for name in ("tiny", "tiny-int8"):
            _tiny_model(folder / name)
        model = 'full = "tiny"\nquantized = "tiny-int8"'
        route = f'[route]\nto_quantized = "short"\nshort_prompt_tokens = {SHORT_TOKENS}\n'
    fails = [row.custom_id for row in rows if row.expected.end is End.FAILED]
    engine = f'kind = "echo"\necho_s = {echo_s}\necho_audit = "spent.jsonl"\necho_fails = {json.dumps(fails)}'
    (folder / "job.toml").write_text(
        f'[dataset]\npath = "prompts.jsonl"\n[model]\n{model}\n[engine]\n{engine}\n'
        f"[sampling]\nmax_tokens = {MAX_TOKENS}\n[price]\n{price}\n{route}",
        encoding="utf-8",
    )
    write_prompts(job)
    return job


def write_prompts(job: Job) -> None:
    (job.folder / "prompts.jsonl").write_text("".join(row.line for row in job.rows), encoding="utf-8")


def some_rows(count: int, salt: str = "") -> list[Row]:
    """Every third is long, every seventh asks what the one before it asked, one is refused, two fail alike."""
    rows = []
    for number in range(count):
        asked = number - 1 if number % 7 == 6 else number
        words = 20 if asked % 3 else 2
        rows.append(Row(f"id-{number}", f"prompt {asked}{salt} " + " ".join(["word"] * words)))
    rows[2] = Row("id-2", "")
    for number in (4, 5):
        rows[number] = Row(f"id-{number}", f"{FAILING}{salt} please")
    return rows


def plain_rows(count: int, salt: str = "") -> list[Row]:
    """Each is answered, none like another."""
    return [Row(f"id-{number}", f"prompt {number}{salt}") for number in range(count)]


def _tiny_model(folder: Path) -> None:
    """Enough of a model folder to be tokenized for: a prompt is as many tokens as it has characters."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "vocab_size": 300,
        "num_attention_heads": 1, "num_hidden_layers": 1, "hidden_size": 1,
    }  # fmt: skip
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + folder.name[:4].encode()
    letters = [chr(code) for code in range(32, 127)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {letter: place for place, letter in enumerate(letters)}, "merges": [],
        },
    }  # fmt: skip
    template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
