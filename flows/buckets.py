"""What a job or a command names in an object store, as folders of this machine."""

from pathlib import Path

from serving.config import Job
from serving.store.bucket import copy_of, is_url, mount

COPIES = Path(".gristmill") / "buckets"


def runs_folder(named: str) -> Path:
    """Raises BucketFault."""
    return mount(named, COPIES) if is_url(named) else Path(named)


def absolute(named: str) -> str:
    return named if is_url(named) else str(Path(named).absolute())


def with_models_at_hand(job: Job) -> Job:
    """Models, adapters and drafts in an object store are copied here, what is here already is not copied again; what
    a run says of its models are their bytes. Raises BucketFault."""
    model = job.model.model_copy(
        update={
            "full": _at_hand(job.model.full),
            "quantized": _at_hand(job.model.quantized),
            "cheaper": {name: _at_hand(folder) for name, folder in job.model.cheaper.items()},
            "adapters": {name: _at_hand(folder) for name, folder in job.model.adapters.items()},
        }
    )
    engine = job.engine.model_copy(update={"speculation_model": _at_hand(job.engine.speculation_model)})
    reuse = job.reuse.model_copy(update={"embedder": _at_hand(job.reuse.embedder)})
    return job.model_copy(update={"model": model, "engine": engine, "reuse": reuse})


def _at_hand(named: str | None) -> str | None:
    """From where the command stands, so that what a run says of its model is the same on every machine."""
    if named is None or not is_url(named):
        return named
    return str(copy_of(named, COPIES).relative_to(Path.cwd()))
