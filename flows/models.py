"""`gristmill models`: the local model folders, as a person sees them."""

from collections.abc import Callable
from pathlib import Path

from serving.models.prepare import list_models
from serving.models.prepare import prepare as prepare_built_in

Say = Callable[[str], None]


def prepare(models: Path, wheels: Path, say: Say) -> None:
    prepare_built_in(models, wheels, say)


def quantize(source: Path, target: Path) -> None:
    from serving.models.quantize import quantize_w8a8

    quantize_w8a8(source, target)


def table(models: Path, say: Say) -> str:
    found = list_models(models, say)
    if not found:
        return f"no models in {models}/; run `gristmill models prepare`"
    heading = ("model", "architecture", "weights", "MB", "context", "heads/kv", "licence")
    rows = [heading]
    for model in found:
        licence = model.origin.licence if model.origin else "not recorded"
        sizes = (f"{model.size_bytes / 1e6:.0f}", str(model.max_model_len), f"{model.heads}/{model.kv_heads}")
        rows.append((str(model.path), model.architecture, model.precision, *sizes, licence))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
