"""Rows of two runs are compared only if what answers them is the same: tenant, model and its files, engine, route."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.admit import _scope
from flows.open import Work

FINGERPRINT = {
    "tenant": "a",
    "model": {"full": "models/small"},
    "models": {"full": "sha256 of its files"},
    "engine": {"kind": "echo"},
    "route": {"to_quantized": "none"},
}


def scope(fingerprint: dict[str, Any]) -> str:
    return _scope(cast(Work, SimpleNamespace(run=SimpleNamespace(facts={"fingerprint": fingerprint}))))


@pytest.mark.parametrize("part", FINGERPRINT)
def test_a_scope_is_left_by_whatever_can_change_an_answer(part: str) -> None:
    assert scope({**FINGERPRINT, part: "another"}) != scope(FINGERPRINT)
