"""Whether answers say the same as their references, by the judge that the job names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.limits import Stopped
from flows.open import Work
from flows.trials import Texts, texts_in
from optimizer.judges import JUDGES, Agree
from serving.config import BadJob
from serving.intake.process import AskedToStop
from serving.judges.command import Command
from serving.judges.model import Ask, Control, ModelJudge
from serving.judges.process import CommandJudge
from serving.records import Comparison, Judge, Message, Outcome
from serving.store.schemas import messages_from
from serving.store.segments import read_rows

if TYPE_CHECKING:
    from serving.reuse.embed import Embedder, Vectors

Rows = NDArray[np.int64]
Pair = tuple[int, Sequence[str], Sequence[str]]  # a row, its answers, and the reference of each
EMBED_TEXTS = 256


class Judged(NamedTuple):
    agrees: NDArray[np.bool_]  # pair by pair
    controls: tuple[Control, ...] = ()  # what the judge itself was tried by, where it is a model


def judged(work: Work, pairs: Sequence[Pair], ask: Ask | None = None) -> Judged:
    """Which pairs agree: those with as many answers as references, each of which says the same as its reference. A
    model that judges is asked by `ask`.

    Raises:
        Stopped: a limit was reached; nothing is judged.
    """
    agrees = np.array([len(answers) == len(reference) for _, answers, reference in pairs], np.bool_)
    of_pair, comparisons = [], []
    for place in np.flatnonzero(agrees):
        row, answers, reference = pairs[place]
        for two in zip(answers, reference, strict=True):
            of_pair.append(place)
            comparisons.append(Comparison(row, *two))
    judge = _judge(work, [row for row, *_ in pairs], ask)
    try:
        same = np.array(judge.agree(comparisons), np.bool_)
    except AskedToStop:
        raise Stopped from None
    agrees[np.array(of_pair, np.int64)[~same]] = False
    return Judged(agrees, tuple(judge.controls) if isinstance(judge, ModelJudge) else ())


def answer_texts(work: Work, rows: Rows) -> dict[int, Texts]:
    """What those of these rows that have an answer were answered."""
    found: dict[int, Texts] = {}
    for table in read_rows(work.run.segments, ["row", "outcome", "choices"]):
        wanted = np.isin(table["row"].to_numpy(), rows) & pc.equal(table["outcome"], Outcome.ANSWERED.value).to_numpy()
        found |= texts_in(table.filter(pa.array(wanted)))
    return found


def _judge(work: Work, rows: Sequence[int], ask: Ask | None) -> Judge:
    quality = work.job.quality
    if quality.judge == "command":
        return _by_command(work, rows)
    if quality.judge == "model":
        assert ask is not None, "who has no way to ask the full model does not judge"
        return ModelJudge(ask, _messages(work, rows), work.progress.say)
    if quality.judge == "embedding":
        from serving.judges.embedding import EmbeddingJudge
        from serving.reuse.embed import SentenceEmbedder

        return EmbeddingJudge(_InBlocks(work, SentenceEmbedder(work.embedder)), quality.min_similarity)
    return _ByText(JUDGES[quality.judge])


@dataclass(frozen=True, slots=True)
class _ByText:
    """A judge that needs nothing but the two texts."""

    same: Agree

    def agree(self, comparisons: Sequence[Comparison]) -> list[bool]:
        return [self.same(compared.answer, compared.reference) for compared in comparisons]


@dataclass(frozen=True, slots=True)
class _InBlocks:
    """An embedder that can be stopped between blocks of texts."""

    work: Work
    embedder: "Embedder"

    @property
    def max_seq_length(self) -> int | None:
        return self.embedder.max_seq_length

    def embed(self, texts: Sequence[str]) -> "Vectors":
        vectors = []
        for start in range(0, len(texts), EMBED_TEXTS):
            if self.work.asked_to_stop():
                raise Stopped
            vectors.append(self.embedder.embed(texts[start : start + EMBED_TEXTS]))
        return np.concatenate(vectors)

    def truncates(self, text: str) -> bool:
        return self.embedder.truncates(text)


def _by_command(work: Work, rows: Sequence[int]) -> CommandJudge:
    quality = work.job.quality
    command = Command.find(quality.command, Path.cwd())
    pinned = work.facts["fingerprint"]["quality"]["command_files"]
    if changed := [word for word, sha256 in command.files.items() if pinned.get(word) != sha256]:
        raise BadJob(
            f"quality.command: {', '.join(changed)} was changed while the run went on; put it back, or run anew"
        )
    log = work.log_of(work.job.lanes["full"]).with_name(f"judge-{work.writer.epoch:04}.log")
    return CommandJudge(
        command, quality.command_timeout_s, _messages(work, rows), log, work.asked_to_stop, work.progress.say
    )


def _messages(work: Work, rows: Sequence[int]) -> dict[int, tuple[Message, ...]]:
    found = {}
    for part in work.run.stage(work.run.admitted).tables("requests", ["row", "messages"]):
        some = part.filter(pc.is_in(part["row"], pa.array(rows, pa.int64())))
        for row, messages in zip(some["row"].to_pylist(), some["messages"].to_pylist(), strict=True):
            found[row] = messages_from(messages)
    return found
