"""Answers that mean the same, as far as a language model can tell that is asked for one word."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from serving.records import Comparison, Message

Ask = Callable[[Sequence[str]], Sequence[str | None]]  # questions, and the reply to each; None where it got none

MOST_CONTROLS, LEAST_CONTROLS = 100, 20
MOST_CALLED_SAME = 0.1  # of the controls


class Control(NamedTuple):
    """Two answers to different requests, put to the judge as if they were answers to one."""

    row: int
    other_row: int
    called_same: bool


class ModelJudge:
    """Asks a model whether either of two answers could stand for the other; both ways around, since models favour what
    they read first or last. What is the same text is not asked.

    A model that says yes to everything would bear out everything. So it is also asked about answers to different
    requests, and if it calls more than a tenth of these the same, or there are too few to tell, it is not believed:
    what is not the same text does not agree.
    """

    def __init__(self, ask: Ask, messages: Mapping[int, Sequence[Message]], say: Callable[[str], None]) -> None:
        """`messages` are those of every request that is judged."""
        self._ask = ask
        self._messages = messages
        self._say = say
        self.controls: list[Control] = []

    def agree(self, comparisons: Sequence[Comparison]) -> list[bool]:
        agrees = [compared.answer == compared.reference for compared in comparisons]
        unlike = [place for place, same in enumerate(agrees) if not same]
        if not unlike:
            return agrees
        controls = list(islice(_strangers(comparisons), MOST_CONTROLS))
        pairs = [comparisons[place] for place in unlike]
        pairs += [Comparison(one.row, one.reference, other.reference) for one, other in controls]
        same = self._same(pairs)
        called = same[len(unlike) :]
        self.controls += [Control(one.row, two.row, it) for (one, two), it in zip(controls, called, strict=True)]
        if not self._believed(called):
            return agrees
        for place, it in zip(unlike, same, strict=False):
            agrees[place] = it
        return agrees

    def _same(self, pairs: Sequence[Comparison]) -> list[bool]:
        questions = [
            question(self._messages[row], *two) for row, one, other in pairs for two in ((one, other), (other, one))
        ]
        replies = [reply is not None and says_yes(reply) for reply in self._ask(questions)]
        return [one and other for one, other in zip(replies[::2], replies[1::2], strict=True)]

    def _believed(self, called_same: Sequence[bool]) -> bool:
        if len(called_same) < LEAST_CONTROLS:
            self._say(f"quality.judge: only {len(called_same)} answers to tell whether the model sees a difference")
            return False
        if sum(called_same) <= MOST_CALLED_SAME * len(called_same):
            return True
        self._say(
            f"quality.judge: the model calls {sum(called_same)} of {len(called_same)} answers to different requests the"
            ' same, so it is not believed; another judge, such as "embedding", asks for no opinion'
        )
        return False


def question(request: Sequence[Message], one: str, other: str) -> str:
    """What the model is asked. The request and the answers stand before the question, so that what they may say of how
    to judge them is not the last word."""
    asked = "\n\n".join(message.content for message in request)
    return (
        f"A request:\n\n{asked}\n\nAnswer 1:\n\n{one}\n\nAnswer 2:\n\n{other}\n\n"
        "Do answer 1 and answer 2 say the same, so that either could be given for the other? Reply Yes or No."
    )


def says_yes(reply: str) -> bool:
    return reply.strip(" \n.,!*\"'").casefold() == "yes"


def _strangers(comparisons: Sequence[Comparison]) -> Iterator[tuple[Comparison, Comparison]]:
    """Of each request the reference, with the next one of another request that is not the same text."""
    for place, one in enumerate(comparisons):
        following = (*comparisons[place + 1 :], *comparisons[:place])
        yield from islice(((one, two) for two in following if _differ(one, two)), 1)


def _differ(one: Comparison, other: Comparison) -> bool:
    return one.row != other.row and one.reference.casefold().split() != other.reference.casefold().split()
