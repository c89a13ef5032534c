"""The first stage: which rows are valid requests? Only a child process turns text from outside into values."""

import time
from pathlib import Path
from typing import Any

from flows.limits import StopReason
from flows.open import Work
from flows.scope import digest_of, scope_of
from serving.config import BadJob, Job
from serving.intake.admit import Form
from serving.intake.files import InputFile
from serving.intake.formats.raw import Reading
from serving.intake.order import ModelText, Order
from serving.intake.process import AskedToStop, admit_apart
from serving.intake.template import BadTemplate, Template
from serving.models.folder import ModelFolder
from serving.store.durable import send
from serving.store.parts import read_manifest

Figures = dict[str, Any]
SAY_EVERY_S = 10.0


def admit(work: Work) -> Figures:
    """Which rows are valid requests? The rest are refused with file, line and reason."""
    if (done := read_manifest(work.run.admitted)) is None:
        work.progress.say(f"reading {', '.join(file.name for file in work.inputs)}")
        try:
            admit_apart(_order(work), lambda: interrupted(work), _Telling(work).rows)
        except AskedToStop:
            raise KeyboardInterrupt from None
        send(work.run.admitted.parent)  # the process that admits has no way out
        done = work.run.stage(work.run.admitted)
    return done.figures


def interrupted(work: Work) -> bool:
    """A budget or a deadline stops the stages that cost something; a person stops those that cost nothing."""
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
    models = list(work.models.values())
    scope = digest_of(scope_of(work.run.facts["fingerprint"]))
    return order_of(work.job, work.inputs, work.run.admitted.parent, models, scope)


def order_of(job: Job, inputs: list[InputFile], folder: Path, models: list[ModelFolder], scope: str) -> Order:
    """What the process that admits is told: rows are read as the job says, and rendered as the first model does."""
    stop = job.dataset.on_bad_row == "stop"
    return Order(inputs, folder, _form(job, models, scope), _text_of(models[0]) if models else None, stop)


def _form(job: Job, models: list[ModelFolder], scope: str) -> Form:
    lengths = [model.max_model_len for model in models]
    if job.engine.max_model_len is not None:
        lengths.append(job.engine.max_model_len)
    return Form(
        default=job.default_sampling,
        scope=scope,
        prompt=_template("dataset.prompt", job.dataset.prompt),
        system=_template("dataset.system", job.dataset.system, needs_column=False),
        id_column=job.dataset.id,
        max_model_len=min(lengths, default=None),
        reading=Reading(job.dataset.delimiter, job.dataset.max_ratio),
        adapters=frozenset(job.model.adapters),
    )


def _template(key: str, text: str | None, needs_column: bool = True) -> Template | None:
    try:
        return None if text is None else Template(text, needs_column)
    except BadTemplate as error:
        raise BadJob(f"{key}: {error}") from None


def _text_of(model: ModelFolder) -> ModelText:
    return ModelText(model.tokenizer_json, model.chat_template, dict(model.special_tokens))
