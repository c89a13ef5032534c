"""Pairs of prompts that lie near each other and must not share an answer, and paraphrases that no rule may keep apart.

`texts.jsonl` names the veto that stops each pair. In `requests.jsonl` the last messages are equal and what stands
around them is not. In `endings.jsonl` are the ends of prompts that are longer than an embedder sees.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
Body = dict[str, Any]


@dataclass(frozen=True)
class TextPair:
    left: str
    right: str
    kind: str = "paraphrase"
    veto: str | None = None


@dataclass(frozen=True)
class RequestPair:
    kind: str
    left: Body
    right: Body


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


TEXTS = [TextPair(**line) for line in _lines("texts.jsonl")]
PARAPHRASES = [TextPair(**line) for line in _lines("paraphrases.jsonl")]
REQUESTS = [RequestPair(**line) for line in _lines("requests.jsonl")]
# 320 words: more than the 256 tokens that all-MiniLM-L6-v2 sees.
PREAMBLE = "Read what follows with care, since the question comes only at the end of it. " * 20
TRUNCATED = [
    TextPair(PREAMBLE + line["left"], PREAMBLE + line["right"], line["kind"]) for line in _lines("endings.jsonl")
]


def asked(text: str) -> Body:
    return {"messages": [{"role": "user", "content": text}]}
