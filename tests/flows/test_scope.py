"""What two runs must share for an answer of the one to be one of the other's, from their run.json alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.scope import answering, digest_of, scope_of
from serving.config import parse_job

MODELS = {"full": "a1", "quantized": "b2", "embedder": "c3", "adapter french": "d4"}


def facts(
    files: dict[str, str] | None = None, dtype: str | None = "bfloat16", vllm: str = "0.32", **sections: Any
) -> dict[str, Any]:
    """As run.json tells of a job: on vLLM, with an adapter and a quantized lane that no row goes to."""
    told = {
        "dataset": {"path": "in.jsonl"},
        "model": {"full": "models/m", "quantized": "models/m-int8", "adapters": {"french": "adapters/french"}},
        "price": {"usd_per_hour": "1"},
    }
    settings = parse_job({**told, **sections}, "job").settings_that_change_an_answer()
    machine = {"host_cpu": "x86_64"} if dtype is None else {"host_cpu": "x86_64", "dtype": dtype}
    return {
        "fingerprint": {**settings, "policy": 1, "input_sha256": "0", "models": {**MODELS, **(files or {})}},
        "versions": {"vllm": vllm, "duckdb": "1.4"},
        "machine": machine,
    }


@pytest.mark.parametrize(
    "other",
    [
        {"files": {"full": "e5"}},
        {"files": {"adapter french": "e5"}},
        {"dtype": "float32"},
        {"dtype": None},  # of a run from before it was noted
        {"vllm": "0.33"},
        {"tenant": {"name": "another"}},
        {"model": {"full": "models/other"}},
        {"model": {"full": "models/m", "adapters": {"french": "adapters/other"}}},
        {"engine": {"kind": "http", "base_url": "http://127.0.0.1:8000/v1"}},
        {"engine": {"dtype": "float32"}},
        {"engine": {"kv_dtype": "fp8"}},
        {"engine": {"quantize": "int8"}},
        {"engine": {"server": "sglang"}},
        {"route": {"to_quantized": "all"}},
    ],
    ids=str,
)
def test_what_can_change_an_answer_sets_two_runs_apart(other: dict[str, Any]) -> None:
    assert answering(facts(**other)) != answering(facts())


@pytest.mark.parametrize(
    "other",
    [
        {"files": {"quantized": "e5"}},  # which no row goes to
        {"files": {"embedder": "e5"}},
        {"reuse": {"semantic": True, "min_similarity": 0.9}},
        {"reuse": {"earlier": False}},
        {"sampling": {"max_tokens": 5}},  # of each row, and in its key
        {"dataset": {"path": "other.csv", "prompt": "{{text}}"}},  # likewise
        {"engine": {"max_num_seqs": 3}},
        {"price": {"usd_per_hour": "2"}},
        {"budget": {"usd": "2"}},
    ],
    ids=str,
)
def test_what_changes_no_answer_to_a_key_does_not(other: dict[str, Any]) -> None:
    assert answering(facts(**other)) == answering(facts())


def test_where_rows_go_to_the_quantized_model_its_files_count() -> None:
    routed = {"route": {"to_quantized": "short"}}
    assert answering(facts(**routed, files={"quantized": "e5"})) != answering(facts(**routed))


def test_a_server_is_known_by_its_address_alone() -> None:
    server = {"engine": {"kind": "http", "base_url": "http://127.0.0.1:8000/v1"}}
    assert answering(facts(**server, vllm="0.33", dtype=None)) == answering(facts(**server))
    other = {"engine": {"kind": "http", "base_url": "http://127.0.0.1:8001/v1"}}
    assert answering(facts(**other)) != answering(facts(**server))


@given(st.permutations(sorted(facts()["fingerprint"])))
def test_the_order_in_which_a_fingerprint_is_told_changes_no_key(names: list[str]) -> None:
    told = facts()["fingerprint"]
    assert digest_of(scope_of({name: told[name] for name in names})) == digest_of(scope_of(told))
