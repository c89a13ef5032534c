"""What a job leaves open, and the machine that it is opened on decides."""

from dataclasses import replace

import pytest

from flows import open as opening
from flows.open import batched_for_this_machine
from serving.config import Job, parse_job
from serving.engines.gpus import Gpu
from serving.engines.machine import GIB, this_machine

WITH_GPU = replace(this_machine(), gpus=(Gpu("NVIDIA H200", 141 * GIB, 9.0),))
WITHOUT = replace(WITH_GPU, gpus=())


def job(**engine: object) -> Job:
    sections = {"dataset": {"path": "x"}, "model": {"full": "models/tiny"}, "price": {"usd_per_hour": 1.0}}
    return parse_job({**sections, "engine": engine}, "job.toml")


@pytest.mark.parametrize(("machine", "usual"), [(WITH_GPU, (256, 8192)), (WITHOUT, (64, 2048))])
def test_a_gpu_runs_more_at_once_unless_the_job_says_how_many(
    machine: object, usual: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "this_machine", lambda: machine)
    found = batched_for_this_machine(job()).engine
    assert (found.max_num_seqs, found.max_num_batched_tokens) == usual
    assert "max_num_seqs" not in found.model_fields_set, "a forecast may still choose another number"
    told = batched_for_this_machine(job(max_num_seqs=8)).engine
    assert (told.max_num_seqs, told.max_num_batched_tokens) == (8, usual[1])
    assert "max_num_seqs" in told.model_fields_set


def test_a_server_sizes_its_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "this_machine", lambda: WITH_GPU)
    asked = job(kind="http", base_url="http://127.0.0.1:1/v1")
    assert batched_for_this_machine(asked) is asked
