"""What servers of other kinds reply, in the shapes that their sources give: beside OpenAI's fields, without some."""

from typing import Any

from tests.serving.engines.openai_stub import Asked


def tgi(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """No word about cached tokens; `n` is read and forgotten; a stop string has a finish_reason of its own."""
    usage = {name: value for name, value in reply["usage"].items() if name != "prompt_tokens_details"}
    first = reply["choices"][0] | {"finish_reason": "stop_sequence" if asked.body.get("stop") else "stop"}
    return reply | {"system_fingerprint": "3.3.6-dev0-native", "choices": [first], "usage": usage}


def sglang(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Cached tokens are null unless it was started with --enable-cache-report."""
    usage = reply["usage"] | {"prompt_tokens_details": None, "reasoning_tokens": 0}
    choices = [choice | {"matched_stop": 2} for choice in reply["choices"]]
    return reply | {"choices": choices, "usage": usage, "metadata": {"weight_version": "default"}}


def sglang_with_cache_report(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    return reply | {"usage": reply["usage"] | {"prompt_tokens_details": {"cached_tokens": 1}, "reasoning_tokens": 0}}


def tensorrt_llm(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    more = {"stop_reason": None, "disaggregated_params": None, "avg_decoded_tokens_per_iter": 1.0}
    choices = [choice | more for choice in reply["choices"]]
    return reply | {"choices": choices, "prompt_token_ids": None}


def llama_cpp(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """The log-probabilities of both endpoints have the form of the chat's, and always come with alternatives."""
    choices = [_with_content(choice) for choice in reply["choices"]]
    return reply | {"choices": choices, "timings": {"cache_n": 1, "prompt_n": 1}}


def _with_content(choice: dict[str, Any]) -> dict[str, Any]:
    logprobs = choice.get("logprobs")
    if not logprobs or "content" in logprobs:
        return choice
    content = [
        {"id": 7, "token": token, "bytes": [], "logprob": value, "top_logprobs": [{"token": token, "logprob": value}]}
        for token, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    ]
    return choice | {"logprobs": {"content": content}}
