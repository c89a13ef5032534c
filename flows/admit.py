"""The first stage: which rows are valid requests? Text from outside becomes a value here and nowhere else."""

import hashlib
from typing import Any

from flows.open import Work
from serving.config import BadJob
from serving.intake.admit import Admission, Admitted, Form
from serving.intake.files import BadInput
from serving.intake.render import ModelRenderer, PlainRenderer, Renderer
from serving.intake.template import BadTemplate, Template
from serving.records import Refusal, canonical_json
from serving.store.parts import PartWriter, read_manifest
from serving.store.schemas import REFUSED, REQUESTS, refusal_to_columns, request_to_columns

Figures = dict[str, Any]


def admit(work: Work) -> Figures:
    """Which rows are valid requests? The rest are refused with file, line and reason."""
    if (done := read_manifest(work.run.admitted)) is not None:
        return done.figures
    work.progress.say(f"reading {', '.join(work.files)}")
    admission = Admission(_form(work), _renderer(work))
    parts = PartWriter(work.run.admitted.parent, "admit", {"requests": REQUESTS, "refusals": REFUSED})
    rows = 0
    for file in work.files:
        for row in admission.read(file):
            rows += 1
            _add(parts, row)
    if rows == 0:
        raise BadInput(f"{', '.join(work.files)}: no rows; there is nothing to answer")
    return parts.finish({"rows": rows}).figures


def _add(parts: PartWriter, row: Admitted | Refusal) -> None:
    if isinstance(row, Refusal):
        parts.add("refusals", refusal_to_columns(row))
        return
    compared_by = {"key": row.key, "frame": row.frame, "text": row.text, "file": row.file, "line": row.line}
    parts.add("requests", request_to_columns(row.request) | compared_by)


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


def _renderer(work: Work) -> Renderer:
    if not work.models:
        return PlainRenderer()
    model = next(iter(work.models.values()))
    return ModelRenderer(model.tokenizer_json, model.chat_template, dict(model.special_tokens))
