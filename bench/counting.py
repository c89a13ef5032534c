"""Prompts that go on as long as they are let: a model asked to count does not stop by itself."""

from collections.abc import Iterator
from pathlib import Path

from serving.intake.render import ModelRenderer
from serving.models.folder import ModelFolder
from serving.records import Endpoint, Message, Request, Sampling


def counting(model: Path, rows: Iterator[tuple[int, int, int]]) -> Iterator[Request]:
    """For each (first number, tokens of the prompt, tokens of the answer) a request of exactly so many tokens."""
    folder = ModelFolder.open(model)
    renderer = ModelRenderer(folder.tokenizer_json, folder.chat_template, dict(folder.special_tokens))
    for row, (first, prompt_tokens, output_tokens) in enumerate(rows):
        text = ", ".join(str(first + step) for step in range(prompt_tokens))
        _, token_ids = renderer.render(Endpoint.COMPLETION, (Message("user", text),))
        sampling = Sampling(max_tokens=output_tokens)
        yield Request(row, str(row), Endpoint.COMPLETION, (), sampling, token_ids[:prompt_tokens])
