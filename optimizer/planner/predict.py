"""A plan's row of a measurement table in, what it would have measured out, with bounds; or why it cannot be told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from optimizer.catalogue.catalogue import Catalogue
from optimizer.planner.answers import MEMORY_QUANTITIES, Asked
from optimizer.planner.calibration import Calibration, shipped
from optimizer.planner.interval import Stratum, bounds_of, seen_gpus, stratum
from optimizer.planner.question import Question, Unanswerable, question_of


@dataclass(frozen=True, slots=True)
class Prediction:
    """In the row's unit; the bounds hold 90 % of what is measured."""

    predicted: float | None
    low_90: float | None
    high_90: float | None
    fits_memory: bool | None
    reason: str  # the stratum of the bounds, or why there is no prediction


def predict(
    row: Mapping[str, str], calibration: Calibration | None = None, catalogue: Catalogue | None = None
) -> Prediction:
    return predict_all([row], calibration, catalogue)[0]


def predict_all(
    rows: Iterable[Mapping[str, str]], calibration: Calibration | None = None, catalogue: Catalogue | None = None
) -> list[Prediction]:
    """Many rows at once, thousands a second. With the constants and the names that are shipped, unless others are
    given."""
    asked: list[Question | str] = []
    for row in rows:
        try:
            asked.append(question_of(row, catalogue))
        except Unanswerable as error:
            asked.append(str(error))
    questions = [question for question in asked if isinstance(question, Question)]
    told = iter(_told(questions, calibration or shipped()))
    return [
        next(told) if isinstance(question, Question) else Prediction(None, None, None, None, question)
        for question in asked
    ]


def _told(questions: list[Question], calibration: Calibration) -> list[Prediction]:
    if not questions:
        return []
    made = Asked.of(questions)
    values = made.values(calibration.logs([question.groups for question in questions]), calibration.slower(made.points))
    found = []
    for question, value, memory, over in zip(questions, values, made.memory, made.saturation, strict=True):
        kind = stratum_of(question, float(over))
        bounds = bounds_of(kind)
        whole = question.lengths.input + question.lengths.output
        fits = bool(memory.fits and memory.kv_tokens() >= np.asarray(whole))
        if not fits and question.wants not in MEMORY_QUANTITIES:
            reason = f"{kind.value}; does not fit: {memory.cache:.1f} GiB would be left for the cache"
        else:
            reason = kind.value
        if not np.isfinite(value):
            found.append(Prediction(None, None, None, fits, f"does not fit: {memory.cache:.1f} GiB left for the cache"))
            continue
        found.append(Prediction(float(value), float(value) * bounds.low, float(value) * bounds.high, fits, reason))
    return found


def stratum_of(question: Question, saturation: float) -> Stratum:
    if question.wants in MEMORY_QUANTITIES:
        return Stratum.MEMORY
    return stratum(
        vllm=question.defaults.engine == "vllm",
        moe=bool(question.plan.shape.experts),
        seen=question.plan.gpu.name in seen_gpus(),
        saturation=saturation,
        offline=question.load == "offline",
    )
