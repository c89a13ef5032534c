"""prefect.yaml: what each deployment hands to the flow and to its work pool is what they know."""

import inspect
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.orchestrate import answer_job
from serving.config import load_job

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
KINDS = {"gristmill": "process", "gristmill-docker": "docker", "gristmill-kubernetes": "kubernetes"}  # of its pools

each = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))


def variables_of(kind: str) -> set[str]:
    """As Prefect itself has them for a pool of that kind."""
    told = files("prefect.server.api.collections_data.views").joinpath("aggregate-worker-metadata.json")
    found: dict[str, dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
    (worker,) = (workers[kind] for workers in found.values() if kind in workers)
    return set(worker["default_base_job_configuration"]["variables"]["properties"])


@each
def test_its_parameters_are_those_of_the_flow(deployment: dict[str, Any]) -> None:
    assert deployment["entrypoint"] == "flows.orchestrate.answer_job"
    assert set(deployment["parameters"]) <= set(inspect.signature(answer_job.fn).parameters)


@each
def test_its_overrides_make_a_job(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = deployment["parameters"]
    load_job(Path(given["job"]), given.get("overrides"))


@each
def test_its_pool_knows_its_variables(deployment: dict[str, Any]) -> None:
    pool = deployment["work_pool"]
    assert set(pool["job_variables"]) <= variables_of(KINDS[pool["name"]])


def test_every_kind_of_pool_has_one() -> None:
    assert {KINDS[deployment["work_pool"]["name"]] for deployment in DEPLOYMENTS} == set(KINDS.values())
