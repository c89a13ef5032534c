"""Prompt files for the bench, the same for the same seed: one without any redundancy, one with that of real logs."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

PREFIX_WORDS, OWN_WORDS = 63, 42  # three fifths of a prompt is shared; a made-up word is some two or three tokens
SHARE = 8  # distinct prompts that begin alike
DUPLICATES = 0.4


def without_redundancy(rows: int, seed: int) -> list[str]:
    draw = random.Random(f"plain {seed}")
    return [_words(draw, PREFIX_WORDS + OWN_WORDS) for _ in range(rows)]


def like_logs(rows: int, seed: int) -> list[str]:
    """Two fifths of the rows repeat another word for word; of all words, three fifths stand in shared beginnings."""
    draw = random.Random(f"logs {seed}")
    distinct = round(rows * (1 - DUPLICATES))
    beginnings = [_words(draw, PREFIX_WORDS) for _ in range(-(-distinct // SHARE))]
    prompts = [f"{beginnings[row // SHARE]} {_words(draw, OWN_WORDS)}" for row in range(distinct)]
    prompts += [draw.choice(prompts) for _ in range(rows - distinct)]
    draw.shuffle(prompts)
    return prompts


def write(file: Path, prompts: Iterable[str], max_tokens: int, model: str) -> None:
    """In the form of OpenAI's Batch API, which run-batch reads as well; greedy."""
    with file.open("w", encoding="utf-8") as stream:
        for number, prompt in enumerate(prompts):
            body = {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": 0,
            }
            row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            stream.write(json.dumps(row) + "\n")


def _words(draw: random.Random, count: int) -> str:
    syllables = (draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3 * count))
    return " ".join("".join(syllable) for syllable in zip(syllables, syllables, syllables, strict=True))
