"""Questions of our own to the full model, put to its engine while that runs; what they take is an overhead."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.admit import interrupted, order_of
from flows.feeding import afforded
from flows.limits import Stopped
from flows.open import Work
from flows.settlement import Settlement
from serving.config import DatasetSection, SamplingSection
from serving.intake.files import open_inputs
from serving.intake.process import AskedToStop, admit_apart
from serving.records import EngineDied, Request
from serving.store.parts import Manifest, read_manifest
from serving.store.schemas import ASKED, requests_from

NO_SCOPE = ""  # their keys are compared with no other's


@dataclass(frozen=True, slots=True)
class Asking:
    """Each question is answered with one token, greedily."""

    work: Work
    settlement: Settlement  # of the full lane's engine

    def __call__(self, questions: Sequence[str]) -> list[str | None]:
        """The reply to each; None to one that does not fit the model, or that failed.

        Raises:
            Stopped: a limit was reached.
            EngineDied: the engine did not live through it.
        """
        replies: list[str | None] = [None] * len(questions)
        settlement = self.settlement
        with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
            requests = afforded(self.work, settlement.lane.name, self._requests(questions, Path(scratch)))
            try:
                for completion in settlement.engine.run(settlement.fed(requests)):
                    settlement.audit(completion)
                    if completion.failure is None:
                        replies[completion.row] = completion.choices[0].text
            except EngineDied as death:
                raise EngineDied(str(death)) from None  # no row is set aside for a question
        if not settlement.complete:
            raise Stopped
        settlement.book_audits("judging")
        return replies

    def _requests(self, questions: Sequence[str], scratch: Path) -> Iterator[Request]:
        for table in self._admitted(questions, scratch).tables("requests", ASKED):
            yield from requests_from(table)

    def _admitted(self, questions: Sequence[str], scratch: Path) -> Manifest:
        """Through the parser that every row goes through: what a dataset says is in them."""
        file = scratch / "questions.jsonl"
        lines = (json.dumps({"id": place, "prompt": asked}) for place, asked in enumerate(questions))
        file.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        how = {"dataset": DatasetSection(path=str(file)), "sampling": SamplingSection(max_tokens=1)}
        job = self.work.job.model_copy(update=how)
        models = list(self.work.models.values())
        order = order_of(job, open_inputs(str(file), scratch), scratch / "admitted", models, NO_SCOPE)
        try:
            admit_apart(order, lambda: interrupted(self.work), lambda count: None)
        except AskedToStop:
            raise Stopped from None
        admitted = read_manifest(scratch / "admitted" / "admit.json")
        assert admitted is not None, "admission ends with its manifest in place"
        return admitted
