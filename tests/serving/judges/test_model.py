"""A model that judges is asked both ways around, and believed only if it sees that different things differ."""

from collections.abc import Sequence

import pytest

from serving.judges.model import LEAST_CONTROLS, MOST_CONTROLS, Ask, ModelJudge, says_yes
from serving.records import Comparison, Message

COLOURS = [f"colour {number}" for number in range(40)]
MESSAGES = {row: [Message("user", f"Which colour has the car {row}?")] for row in range(len(COLOURS))}


def meaning(text: str) -> str:
    return text.lower().removeprefix("it is ").rstrip(".")


def answers_of(question: str) -> tuple[str, str]:
    first, second = question.split("Answer 1:\n\n")[1].split("\n\nAnswer 2:\n\n")
    return first, second.split("\n\nDo answer 1")[0]


def sees(questions: Sequence[str]) -> list[str | None]:
    return ["Yes" if meaning(one) == meaning(two) else "No" for one, two in map(answers_of, questions)]


def judge(ask: Ask, said: list[str] | None = None) -> ModelJudge:
    return ModelJudge(ask, MESSAGES, [].append if said is None else said.append)


def compared(answers: Sequence[str]) -> list[Comparison]:
    return [Comparison(row, answer, reference) for row, (answer, reference) in enumerate(zip(answers, COLOURS))]  # noqa: B905


def test_answers_agree_where_it_says_yes_and_not_where_it_says_no() -> None:
    answers = [f"It is {colour}." if row % 2 else "no idea" for row, colour in enumerate(COLOURS)]
    assert judge(sees).agree(compared(answers)) == [bool(row % 2) for row in range(len(COLOURS))]


def test_the_same_text_agrees_unasked() -> None:
    def never(questions: Sequence[str]) -> list[str | None]:
        raise AssertionError(questions)

    assert judge(never).agree(compared(COLOURS)) == [True] * len(COLOURS)
    assert judge(never).agree([]) == []


def test_it_is_asked_about_the_request_and_both_answers_both_ways_around() -> None:
    asked: list[str] = []

    def ask(questions: Sequence[str]) -> list[str | None]:
        asked.extend(questions)
        return sees(questions)

    judge(ask).agree(compared(["red", *COLOURS[1:]]))
    assert [answers_of(question) for question in asked[:2]] == [("red", "colour 0"), ("colour 0", "red")]
    assert all("Which colour has the car 0?" in question for question in asked[:2])
    assert len(asked) == 2 + 2 * len(COLOURS)


def test_one_that_agrees_only_one_way_around_has_not_agreed() -> None:
    def favours(questions: Sequence[str]) -> list[str | None]:
        return ["Yes" if answers_of(question)[0].startswith("It is") else "No" for question in questions]

    answers = [f"It is {colour}." for colour in COLOURS]
    assert not any(judge(favours).agree(compared(answers)))


@pytest.mark.parametrize("reply", ["Yes", None, "yes."])
def test_one_that_calls_everything_the_same_or_says_nothing_bears_nothing_out(reply: str | None) -> None:
    said: list[str] = []
    answers = [f"It is {colour}." for colour in COLOURS]
    blind = judge(lambda questions: [reply] * len(questions), said)
    assert not any(blind.agree(compared(answers)))
    if reply is not None:
        [line] = said
        assert f"calls {len(COLOURS)} of {len(COLOURS)} answers to different requests the same" in line
        assert {control.called_same for control in blind.controls} == {True}


def test_where_too_few_answers_differ_to_try_it_nothing_is_borne_out() -> None:
    said: list[str] = []
    few = [Comparison(row, "It is red.", "red") for row in range(len(COLOURS))]
    assert not any(judge(sees, said).agree(few))
    assert "only 0 answers to tell" in said[0]


def test_controls_are_answers_to_different_requests_and_no_more_than_a_hundred() -> None:
    rows = range(300)
    tried = ModelJudge(sees, {row: MESSAGES[0] for row in rows}, [].append)
    pairs = [Comparison(row, f"It is {row}.", str(row)) for row in rows]
    assert all(tried.agree(pairs))
    assert len(tried.controls) == MOST_CONTROLS >= LEAST_CONTROLS
    assert all(control.row != control.other_row and not control.called_same for control in tried.controls)


@pytest.mark.parametrize(
    ("reply", "yes"),
    [("Yes", True), (" yes", True), ("YES.", True), ("No", False), ("", False), ("Yesterday", False), ("1", False)],
)
def test_a_reply_is_yes_or_it_is_not(reply: str, yes: bool) -> None:
    assert says_yes(reply) is yes
