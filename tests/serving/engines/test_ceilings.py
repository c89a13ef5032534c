"""What a machine can do at the most is measured once and kept for that machine alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.engine_config import EngineConfig
from serving.engines.ceilings import Ceilings, keep, kept, measure
from serving.engines.machine import settled, this_machine
from serving.environment import STATE


@pytest.fixture(autouse=True)
def _a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))


def test_a_product_and_a_walk_are_timed() -> None:
    machine = this_machine()
    found = measure(settled(EngineConfig(), machine), machine, (64, 64, 64))
    assert 1e8 < found.flop_s < 1e15
    assert 1e8 < found.bytes_s < 1e13
    assert found.said_by.startswith("measured 2")


def test_it_is_kept_by_machine_and_type_of_number() -> None:
    machine, found = this_machine(), Ceilings(1e11, 1e10, "measured 2026-11-26")
    assert kept(machine, "float32") is None
    keep(found, machine, "float32")
    assert kept(machine, "float32") == found
    assert kept(machine, "bfloat16") is None
    assert kept(replace(machine, cpu="another"), "float32") is None


def test_what_another_version_wrote_is_measured_anew(tmp_path: Path) -> None:
    machine = this_machine()
    keep(Ceilings(1.0, 1.0, "x"), machine, "float32")
    [file] = (tmp_path / "state" / "measured").glob("ceilings-*.json")
    for spoilt in ("", "{}", "[1]", '{"flop_s": 1}'):
        file.write_text(spoilt)
        assert kept(machine, "float32") is None
