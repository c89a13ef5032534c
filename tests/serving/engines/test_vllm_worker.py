"""What the worker makes of vLLM's answers, where that is more than naming."""

import json
from types import SimpleNamespace
from typing import Any

from serving.engines.vllm_worker import LEAST_LOGPROB, _token_logprobs


def alternative(text: str, logprob: float) -> Any:
    return SimpleNamespace(decoded_token=text, logprob=logprob)


def test_a_token_that_could_not_come_has_a_logprob_that_json_can_say() -> None:
    told = _token_logprobs(1, {1: alternative("a", -0.5), 2: alternative("b", float("-inf"))})
    assert told["logprob"] == -0.5
    assert [one["logprob"] for one in told["top_logprobs"]] == [-0.5, LEAST_LOGPROB]
    json.dumps(told, allow_nan=False)
