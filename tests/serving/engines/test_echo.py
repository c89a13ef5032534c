"""The shipped double: what the other tests lean on."""

from collections.abc import Iterator

import pytest

from serving.engines.echo import EchoEngine
from serving.records import Completion, Endpoint, EngineDied, Message, Request, Sampling, Usage


def request(row: int, text: str = "one two three", sampling: Sampling = Sampling()) -> Request:  # noqa: B008
    return Request(row, f"id-{row}", Endpoint.CHAT, (Message("user", text),), sampling)


def test_it_answers_with_the_prompts_words() -> None:
    (done,) = EchoEngine().run(iter([request(0)]))
    assert [(choice.text, choice.finish_reason) for choice in done.choices] == [("one two three", "stop")]


def test_it_cuts_at_max_tokens_and_says_so() -> None:
    (done,) = EchoEngine().run(iter([request(0, sampling=Sampling(max_tokens=2))]))
    assert [(choice.text, choice.finish_reason) for choice in done.choices] == [("one two", "length")]


def test_every_choice_is_counted() -> None:
    (done,) = EchoEngine().run(iter([request(0, sampling=Sampling(n=3))]))
    assert len(done.choices) == 3
    assert done.usage == Usage(3, 9)  # 3 choices of 3 words


def test_told_to_fail_a_row_it_fails_that_row_alone() -> None:
    done = list(EchoEngine(fails=lambda request: request.row == 1).run(iter([request(0), request(1), request(2)])))
    assert [completion.failure is not None for completion in done] == [False, True, False]


def test_told_to_die_it_has_finished_what_came_before() -> None:
    run = EchoEngine(dies_after=2).run(iter([request(0), request(1), request(2)]))
    assert [next(run).row, next(run).row] == [0, 1]
    with pytest.raises(EngineDied, match="after 2 requests"):
        next(run)


def test_it_pulls_no_further_than_it_answers() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[Request]:
        while True:
            pulled.append(len(pulled))
            yield request(pulled[-1])

    run = EchoEngine().run(endless())
    next(run)
    next(run)
    assert pulled == [0, 1]


def test_a_stop_ends_it_before_the_next_answer() -> None:
    finished: list[Completion] = []
    engine = EchoEngine(stop=lambda: len(finished) == 3)
    for done in engine.run(request(row) for row in range(10)):
        finished.append(done)
    assert len(finished) == 3
