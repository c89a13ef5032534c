"""The first rows of a run, looked at: what all of it will take, now that this run's own speed and answers are seen, and
whether another engine is still worth its start."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np

from flows.ahead import more_of
from flows.forecast import Basis, bases, forecast, in_words
from flows.joining import worth_joining, worth_no_start
from flows.learning import LEAST_STEPS
from flows.members import Rows, pending_rows
from flows.open import Work
from optimizer.planner.own_steps import scaled
from serving.records import Completion, Lane, StepEvidence
from serving.store.predictions import write_prediction

LEAST_ROWS, SHARE = 48, 0.02  # of the first lane's rows, whichever is more; and of a small lane no more than a half
SPEED_DEVIATION = 0.06  # of the logarithm, of the rest of a run from its first rows: these are mostly prompts


@dataclass(slots=True)
class Pilot:
    """Of the first lane that a run answers; `lanes` are that one and those after it, with all that is pending."""

    work: Work
    lanes: Sequence[tuple[Lane, Rows]]
    spent_usd: Decimal  # before the lane began
    _output_tokens: dict[int, int] = field(default_factory=dict)  # of an answer, by row
    _taken: bool = False
    _weighed: bool = False  # whether the later lanes were forecast against this engine
    _joined: list[Lane] = field(default_factory=list)  # whose rows the engine that runs is to answer as well

    def due(self, completion: Completion) -> bool:
        """Once: when enough has finished."""
        if self._taken:
            return False
        self._output_tokens[completion.row] = completion.usage.completion_tokens // max(1, len(completion.choices))
        rows = len(self.lanes[0][1])
        self._taken = len(self._output_tokens) >= min(max(LEAST_ROWS, SHARE * rows), rows / 2)
        return self._taken

    def take(self, evidence: StepEvidence | None, start_up_s: float) -> None:
        """Forecast the run anew, and say it; nothing where its later engines are not known here."""
        if evidence is None or evidence.steps < LEAST_STEPS:
            return
        following = bases(self.work, [lane for lane, _ in self.lanes[1:]], after_another=True)
        here = self._basis(evidence, start_up_s)
        if here is None or following is None:
            return
        told = [(lane, rows, basis) for (lane, rows), basis in zip(self.lanes, [here, *following], strict=True)]
        self._weighed = True
        if worth_joining(self.work, told):
            lane, rows = self.lanes[0]
            told = [(lane, np.union1d(rows, self._join()), here)]
        found = forecast(self.work, told, self.spent_usd)
        write_prediction(self.work.run, "pilot", found)
        self.work.expected_s.update((lane.lane, lane.seconds.value) for lane in found.lanes)
        self.work.progress.say(f"after {len(self._output_tokens)} rows: {in_words(found)}")

    def portions(self, pending: Rows, start_up_s: float) -> Iterator[Rows]:
        """What the first lane's engine is to answer, one after the other: its own, then what the look found that it
        should answer as well. A lane whose rows it has answered starts no engine; what is left when it dies, does."""
        began_s = time.monotonic()
        yield pending
        if not self._weighed and len(pending):
            s_per_row = (time.monotonic() - began_s) / len(pending)
            (running, _), *others = self.lanes
            if worth_no_start(self.work, running, s_per_row, start_up_s, others):
                self._join()
        for lane in self._joined:
            if len(rows := pending_rows(self.work, lane)):
                yield rows

    def _join(self) -> Rows:
        """The rows of the later lanes, which are this engine's from now on."""
        self._joined = [lane for lane, _ in self.lanes[1:]]
        rows = np.concatenate([rows for _, rows in self.lanes[1:]])
        no_more_s = sum(self.work.expected_s.get(lane.name, 0.0) for lane in self._joined)
        self.work.progress.more(replace(more_of(self.work, rows), later_s=-no_more_s))
        return rows

    def _basis(self, evidence: StepEvidence, start_up_s: float) -> Basis | None:
        """What was known, at the speed of now: a few rows tell how fast a machine is, not which part of a step is."""
        known = bases(self.work, [self.lanes[0][0]])
        if known is None:
            return None
        before = known[0]
        expected_s = before.times.of(evidence.totals)
        if not expected_s:
            return None
        # Both say how fast the rest will be, each as much as it is to be trusted (normal prior, normal observation).
        prior, seen = before.speed_deviation**-2, SPEED_DEVIATION**-2
        slower = math.exp(math.log(evidence.seconds / expected_s) * seen / (prior + seen))
        return replace(
            before,
            times=scaled(before.times, slower),
            start_up_s=start_up_s,
            start_deviation=0.0,
            speed_deviation=(prior + seen) ** -0.5,
            # What finishes first is what is short: where longer answers to this input are known, those tell more.
            finished={} if before.of_this_input else self._output_tokens,
        )


def pilot_of(work: Work, lanes: Sequence[tuple[Lane, Rows]]) -> Pilot | None:
    """None where there is nothing to look ahead from."""
    if not work.job.computes_here or not lanes:
        return None
    return Pilot(work, lanes, work.run.spent_usd())
