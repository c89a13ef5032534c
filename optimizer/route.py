"""Which lane answers a representative, by the rule that the job file states. Pure."""

from dataclasses import dataclass
from typing import Literal

# auto begins as short (see flows.joining); certified as all, of which an audit tells how many (see flows.looks).
ToQuantized = Literal["none", "short", "all", "auto", "certified"]


@dataclass(frozen=True, slots=True)
class Route:
    lane: str
    rule: str  # in words, kept with the row as the reason for its lane


def route(
    prompt_tokens: int | None, to_quantized: ToQuantized, short_prompt_tokens: int, cheapest: str = "quantized"
) -> Route:
    """The lane of one prompt. A prompt whose length is not known is not short; one that is to be certified begins in
    the `cheapest` lane."""
    if to_quantized == "none":
        return Route("full", "every prompt to the full lane")
    if to_quantized == "all":
        return Route("quantized", "every prompt to the quantized lane")
    if to_quantized == "certified":
        return Route(cheapest, "any prompt, as far as an audit certifies it")
    if prompt_tokens is not None and prompt_tokens <= short_prompt_tokens:
        return Route("quantized", f"prompt of at most {short_prompt_tokens} tokens")
    return Route("full", f"prompt of more than {short_prompt_tokens} tokens, or of unknown length")
