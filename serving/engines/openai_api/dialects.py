"""Where servers that speak OpenAI's API differ: what they call a field, what they silently ignore or take for granted.

Read in the sources of vLLM 0.32.0, SGLang @004c82e0, TensorRT-LLM @0076e939, TGI 3.3.6-dev0 @db931fcf and llama.cpp
b11434; docs/servers.md shows it as a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.records import Endpoint

ANY_SEED = range(-(2**63), 2**63)
Schema = dict[str, Any]


def _openai_schema(schema: Schema) -> dict[str, Any]:
    wrapped = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": wrapped}}


def _tgi_schema(schema: Schema) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "value": {"name": "answer", "schema": schema}}}


def _llama_cpp_schema(schema: Schema) -> dict[str, Any]:
    """Of both endpoints; a response_format is heeded by one of them only."""
    return {"json_schema": schema}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is sent to a server so that it draws the answer as the row asks, or so that the row fails instead."""

    server: str
    # True: fields that are off are sent as off. What is left out, the server takes from its own defaults or from the
    # model's generation_config.json, and answers would not be those of the same job in our own engine.
    sends_what_is_off: bool = False
    top_k_off: int = 0
    repetition_penalty: str = "repetition_penalty"
    schema: Callable[[Schema], dict[str, Any]] = _openai_schema
    seeds: range = ANY_SEED
    least_logprobs: int = 0
    takes_salt: bool = True
    ignores: Mapping[Endpoint, frozenset[str]] = field(default_factory=dict)  # without a word, so we refuse it


OPENAI = Dialect("openai")
DIALECTS = {
    dialect.server: dialect
    for dialect in (
        OPENAI,
        Dialect("vllm", sends_what_is_off=True),
        Dialect("sglang", sends_what_is_off=True, top_k_off=-1),
        Dialect("tensorrt-llm", sends_what_is_off=True),
        Dialect(
            "tgi",  # refuses a top_p of 1.0, so what is off is left out; its presence_penalty is a repetition penalty
            schema=_tgi_schema,
            seeds=range(2**64),
            takes_salt=False,
            ignores={
                Endpoint.CHAT: frozenset({"top_k", "min_p", "n", "repetition_penalty", "presence_penalty"}),
                Endpoint.COMPLETION: frozenset({"top_k", "min_p", "n", "presence_penalty", "logprobs", "json_schema"}),
            },
        ),
        Dialect(
            "llama.cpp",  # of no more than 32 bits of seed, the last of which stands for "at random"
            sends_what_is_off=True,
            repetition_penalty="repeat_penalty",
            schema=_llama_cpp_schema,
            seeds=range(2**32 - 1),
            least_logprobs=1,
            takes_salt=False,
        ),
    )
}
