"""What engines took, kept between runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.engine_config import Batching, EngineConfig, Precision
from serving.engines.machine import GIB, Machine, settled
from serving.engines.measured import (
    KEPT,
    MAX_LENGTHS,
    EngineKey,
    Measured,
    learn,
    note_miss,
    what_is_known,
)
from serving.environment import STATE
from serving.records import StepEvidence

CPU = Machine("a CPU", (0, 1), frozenset(), 16 * GIB, 8 * GIB, ())
CONFIG = settled(EngineConfig(), CPU)
EVIDENCE = StepEvidence(2.0, (10.0, 100.0, 5000.0, 40.0, 900.0), tuple(float(place) for place in range(15)))
ONCE = Measured(EVIDENCE, 2.1, first_start_s=18.0, lengths={"a": ((5, 8, 3),)})


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    return tmp_path / "state"


def engine(model: str = "m", config: EngineConfig = CONFIG, machine: Machine = CPU) -> EngineKey:
    return EngineKey.of(model, config, machine)


def test_nothing_is_known_at_first() -> None:
    assert what_is_known(engine()) is None


def test_what_is_learned_is_known_again() -> None:
    learn(engine(), ONCE)
    assert what_is_known(engine()) == ONCE


def test_what_was_known_fades_when_more_is_learned() -> None:
    learn(engine(), ONCE)
    learn(engine(), replace(ONCE, first_start_s=None, next_start_s=4.0, lengths={"b": ((6, 8, 8),)}))
    known = what_is_known(engine())
    assert known is not None
    assert known.evidence.steps == (1 + KEPT) * EVIDENCE.steps
    assert (known.first_start_s, known.next_start_s) == (18.0, 4.0)
    assert known.lengths == {"a": ((5, 8, 3),), "b": ((6, 8, 8),)}


def test_no_more_answers_are_kept_than_a_draw_needs() -> None:
    learn(engine(), ONCE)
    learn(engine(), replace(ONCE, lengths={"a": tuple((1, 9, number % 9) for number in range(3 * MAX_LENGTHS))}))
    known = what_is_known(engine())
    assert known is not None
    assert len(known.lengths["a"]) == MAX_LENGTHS


def test_another_model_precision_or_machine_is_another_engine() -> None:
    learn(engine(), ONCE)
    halved = replace(CONFIG, precision=Precision("bfloat16"))
    others = [engine("other"), engine(config=halved), engine(machine=replace(CPU, cores=(0, 1, 2)))]
    assert [what_is_known(other) for other in others] == [None, None, None]


def test_how_much_runs_at_once_is_no_other_engine() -> None:
    learn(engine(), ONCE)
    assert what_is_known(engine(config=replace(CONFIG, batching=Batching(7, 512)))) == ONCE


def test_a_miss_is_kept_beside_what_is_known() -> None:
    learn(engine(), ONCE)
    note_miss(engine(), 0.1)
    known = what_is_known(engine())
    assert known == replace(ONCE, misses=(0.1,))


@pytest.mark.parametrize("text", ["", "{", '{"measured": {}}', '{"measured": {"evidence": 3}}', "[1]"])
def test_a_file_that_is_not_ours_is_as_if_nothing_were_known(text: str) -> None:
    learn(engine(), ONCE)
    file = engine().file
    assert file is not None
    file.write_text(text, encoding="utf-8")
    assert what_is_known(engine()) is None


def test_before_it_is_said_where_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE)
    learn(engine(), ONCE)
    assert what_is_known(engine()) is None
