"""The first stage: which rows are valid requests? Only a child process turns text from outside into values."""

import hashlib
import time
from typing import Any

from flows.limits import StopReason
from flows.open import Work
from serving.config import BadJob
from serving.intake.admit import Form
from serving.intake.formats.raw import Reading
from serving.intake.order import ModelText, Order
from serving.intake.process import AskedToStop, admit_apart
from serving.intake.template import BadTemplate, Template
from serving.records import canonical_json
from serving.store.parts import read_manifest

Figures = dict[str, Any]
SAY_EVERY_S = 10.0


def admit(work: Work) -> Figures:
    """Which rows are valid requests? The rest are refused with file, line and reason."""
    if (done := read_manifest(work.run.admitted)) is None:
        work.progress.say(f"reading {', '.join(file.name for file in work.inputs)}")
        try:
            admit_apart(_order(work), lambda: _interrupted(work), _Telling(work).rows)
        except AskedToStop:
            raise KeyboardInterrupt from None
        done = work.run.stage(work.run.admitted)
    return done.figures


def _interrupted(work: Work) -> bool:
    """A budget or a deadline stops the stages that cost something; a person stops this one."""
    return work.asked_to_stop() and work.stopped is StopReason.INTERRUPTED


class _Telling:
    """Says how far reading has come, where it takes long."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._said_s = time.monotonic()

    def rows(self, count: int) -> None:
        if time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            self._work.progress.say(f"  {count} rows read")


def _order(work: Work) -> Order:
    stop = work.job.dataset.on_bad_row == "stop"
    return Order(work.inputs, work.run.admitted.parent, _form(work), _model(work), stop)


def _form(work: Work) -> Form:
    job = work.job
    lengths = [model.max_model_len for model in work.models.values()]
    if job.engine.max_model_len is not None:
        lengths.append(job.engine.max_model_len)
    return Form(
        default=job.default_sampling,
        scope=_scope(work),
        prompt=_template("dataset.prompt", job.dataset.prompt),
        system=_template("dataset.system", job.dataset.system, needs_column=False),
        id_column=job.dataset.id,
        max_model_len=min(lengths, default=None),
        reading=Reading(job.dataset.delimiter, job.dataset.max_ratio),
        adapters=frozenset(job.model.adapters),
    )


def _scope(work: Work) -> str:
    """What two runs must have in common for their keys to mean the same."""
    fingerprint = work.run.facts["fingerprint"]
    parts = {name: fingerprint[name] for name in ("tenant", "model", "models", "engine", "route")}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _template(key: str, text: str | None, needs_column: bool = True) -> Template | None:
    try:
        return None if text is None else Template(text, needs_column)
    except BadTemplate as error:
        raise BadJob(f"{key}: {error}") from None


def _model(work: Work) -> ModelText | None:
    if not work.models:
        return None
    model = next(iter(work.models.values()))
    return ModelText(model.tokenizer_json, model.chat_template, dict(model.special_tokens))
