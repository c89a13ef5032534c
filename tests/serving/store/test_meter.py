"""Meters: what an engine has spent is still known after a kill, and nothing is made up after worse."""

import os
import signal
import time
from pathlib import Path

import pytest

from serving.store.meter import HEAD, TOKENS, TOKENS_AT, Meter, Spent, read_meter

SIZE = HEAD.size + TOKENS.size


def test_a_meter_shows_what_was_counted(tmp_path: Path) -> None:
    with Meter(tmp_path / "0001-full-001.meter") as meter:
        meter.count(10, 2)
        meter.count(1, 1)
        assert meter.read() == read_meter(meter.path) == Spent(0.0, 11, 3)


def test_a_meter_shows_how_long_its_engine_ran(tmp_path: Path) -> None:
    with Meter(tmp_path / "a.meter") as meter:
        began = time.monotonic()
        time.sleep(0.02)
        meter.tick()
        assert 0.02 <= meter.read().seconds <= time.monotonic() - began + 0.01


def test_processes_side_by_side_add_up(tmp_path: Path) -> None:
    """Each writes its own pair, as the worker of the vllm engine does."""
    with Meter(tmp_path / "a.meter", places=2) as meter:
        for place, tokens in enumerate(((10, 2), (5, 1))):
            TOKENS.pack_into(meter._page, TOKENS_AT + place * TOKENS.size, *tokens)
        assert meter.read() == read_meter(meter.path) == Spent(0.0, 15, 3)


def test_a_meter_is_named_by_its_file(tmp_path: Path) -> None:
    with Meter(tmp_path / "0001-full-001.meter") as meter:
        assert meter.name == "0001-full-001"


def test_a_meter_is_for_one_engine_alone(tmp_path: Path) -> None:
    with Meter(tmp_path / "a.meter"), pytest.raises(FileExistsError):
        Meter(tmp_path / "a.meter")


def test_only_the_owner_can_read_a_meter(tmp_path: Path) -> None:
    with Meter(tmp_path / "a.meter"):
        assert (tmp_path / "a.meter").stat().st_mode & 0o777 == 0o600


def test_what_a_meter_shows_outlives_a_kill(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        meter = Meter(tmp_path / "a.meter")
        meter.count(30, 4)
        meter.tick()
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    spent = read_meter(tmp_path / "a.meter")
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (spent.prompt_tokens, spent.completion_tokens) == (30, 4)
    assert spent.seconds > 0


def test_a_meter_that_is_torn_anywhere_shows_nothing(tmp_path: Path) -> None:
    with Meter(tmp_path / "a.meter") as meter:
        meter.count(30, 4)
    whole = meter.path.read_bytes()
    for size in range(SIZE):
        for torn in (whole[:size], whole[:size].ljust(SIZE, b"\0")[: 7 if size > 7 else SIZE]):
            meter.path.write_bytes(torn)
            assert read_meter(meter.path) == Spent()


def test_a_meter_that_a_power_failure_took_shows_nothing(tmp_path: Path) -> None:
    assert read_meter(tmp_path / "gone.meter") == Spent()
