"""`gristmill models`: the local model folders, as a person sees them."""

from collections.abc import Callable
from pathlib import Path

from flows.terminal import in_columns
from serving.models.prepare import list_models
from serving.models.record import Fidelity

Say = Callable[[str], None]


def table(models: Path, say: Say) -> str:
    found = list_models(models, say)
    if not found:
        return f"no models in {models}/; run `gristmill models prepare`"
    heading = ("model", "architecture", "weights", "MB", "context", "heads/kv", "licence", "against the full model")
    rows = [heading]
    for model in found:
        licence = model.origin.licence if model.origin else "not recorded"
        sizes = (f"{model.size_bytes / 1e6:.0f}", str(model.max_model_len), f"{model.heads}/{model.kv_heads}")
        rows.append((str(model.path), model.architecture, model.precision, *sizes, licence, _in_short(model.fidelity)))
    return "\n".join(in_columns(rows))


def _in_short(fidelity: Fidelity | None) -> str:
    if fidelity is None:
        return ""
    worse = fidelity.perplexity / fidelity.full_perplexity
    return f"top-1 {fidelity.top1_share:.1%}, KL {fidelity.mean_kl_nats:.4f}, perplexity {worse:.3f}x"
