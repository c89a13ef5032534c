"""Speculation changes how long a greedy answer takes, never what it says; in a batch of all kinds of requests too."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from serving.engine_config import Draft, EngineConfig, Speculation
from serving.engines.machine import Machine
from serving.records import Completion, Request, Sampling
from tests.engine_room.conftest import FULL, request, running, texts

pytestmark = pytest.mark.engines

ASKED = (
    "What is the capital of France?",
    "Repeat after me: the quick brown fox jumps over the lazy dog, twice.",
    "Copy this list: apple, pear, plum, apple, pear, plum, apple, pear, plum.",
    "Write the numbers from one to twenty.",
    "Who was the eleventh president of the United States?",
)
SCHEMA = '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}'
KINDS = (
    Sampling(max_tokens=32),
    Sampling(max_tokens=32, json_schema=SCHEMA),
    Sampling(max_tokens=32, repetition_penalty=1.2),
    Sampling(max_tokens=32, temperature=1.0, seed=1),
    Sampling(max_tokens=32, n=2, temperature=0.8, seed=3),
)
GREEDY = 3  # of the kinds, the first ones
DRAFTS = {
    "ngram": Speculation(Draft.NGRAM, tokens=4),
    "suffix": Speculation(Draft.SUFFIX, tokens=8),
    "draft": Speculation(Draft.MODEL, tokens=3, model=str(FULL)),
}
Render = Callable[[str], tuple[int, ...]]


def batch(render: Render) -> list[Request]:
    """Every prompt in every kind, neighbours of different kinds."""
    pairs = [(text, kind) for text in ASKED for kind in KINDS]
    return [request(row, render(text), kind) for row, (text, kind) in enumerate(pairs)]


def is_greedy(row: int) -> bool:
    return row % len(KINDS) < GREEDY


@pytest.fixture(scope="module")
def without(machine: Machine, render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Completion]:
    with running(EngineConfig(), machine, tmp_path_factory.mktemp("off") / "log") as engine:
        return engine.answer(batch(render))


@pytest.fixture(scope="module", params=DRAFTS)
def speculated(
    request: pytest.FixtureRequest, machine: Machine, render: Render, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[int, Completion]]:
    if request.param == "suffix" and find_spec("arctic_inference") is None:
        pytest.skip("NOT TESTED: arctic-inference is not installed (`make suffix`, needs a C++ compiler)")
    config = EngineConfig(speculation=DRAFTS[request.param])
    with running(config, machine, tmp_path_factory.mktemp("on") / "log") as engine:
        return request.param, engine.answer(batch(render))


def test_greedy_answers_are_the_same_with_and_without(
    speculated: tuple[str, dict[int, Completion]], without: dict[int, Completion]
) -> None:
    found, wanted = texts(speculated[1]), texts(without)
    assert {row: text for row, text in found.items() if is_greedy(row)} == {
        row: text for row, text in wanted.items() if is_greedy(row)
    }


def test_drafted_and_accepted_tokens_are_counted_by_row(speculated: tuple[str, dict[int, Completion]]) -> None:
    name, answers = speculated
    usages = [done.usage for row, done in answers.items() if is_greedy(row)]
    assert all(0 <= usage.accepted_tokens <= usage.drafted_tokens for usage in usages)
    assert all(usage.accepted_tokens < usage.completion_tokens for usage in usages)
    assert sum(usage.accepted_tokens for usage in usages) > 0
    if name == "draft":  # it guesses with the model itself, so a plain greedy guess is right
        plain = [done.usage for row, done in answers.items() if row % len(KINDS) == 0]
        assert sum(usage.accepted_tokens for usage in plain) >= 0.9 * sum(usage.drafted_tokens for usage in plain)


def test_without_speculation_nothing_is_drafted(without: dict[int, Completion]) -> None:
    assert {(done.usage.drafted_tokens, done.usage.accepted_tokens) for done in without.values()} == {(0, 0)}


def test_the_kinds_of_a_mixed_batch_keep_their_promises(
    speculated: tuple[str, dict[int, Completion]], tmp_path: Path
) -> None:
    answers = speculated[1]
    assert all(len(done.choices) == KINDS[row % len(KINDS)].n for row, done in answers.items())
    schema_rows = [done for row, done in answers.items() if KINDS[row % len(KINDS)].json_schema]
    assert all(choice.text.lstrip().startswith("{") for done in schema_rows for choice in done.choices)
