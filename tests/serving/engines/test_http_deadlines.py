"""How long anything may take: a reply, a row over all its tries, and what is in flight once the run stops."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.engines.http import HttpEngine
from serving.records import Completion, Endpoint, Message, Request, Sampling
from tests.serving.engines.openai_stub import Asked, Fault, OpenAIStub


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engines.openai_api.retries.FIRST_BACKOFF_S", 0.01)


def requests(rows: int) -> Iterator[Request]:
    return (Request(row, str(row), Endpoint.CHAT, (Message("user", f"p {row}"),), Sampling()) for row in range(rows))


def run(stub: OpenAIStub, rows: int, **settings: Any) -> tuple[dict[int, Completion], float]:
    defaults: dict[str, Any] = {"concurrency": 4, "timeout_s": 5.0, "max_retries": 3}
    engine = HttpEngine(stub.base_url, "m", None, **{**defaults, **settings})
    began = time.monotonic()
    found = {completion.row: completion for completion in engine.run(requests(rows))}
    return found, time.monotonic() - began


def after(seconds: float) -> Callable[[], bool]:
    stop_at = time.monotonic() + seconds
    return lambda: time.monotonic() > stop_at


def wait_until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not happened() and time.monotonic() < give_up:
        time.sleep(0.01)


def test_the_server_sees_within_a_second_that_a_stopped_run_has_left() -> None:
    with OpenAIStub(takes_s=lambda asked: 30.0) as stub:
        stop = after(0.3)
        found, wall_s = run(stub, 9, stop=stop)
        stopped_at = time.monotonic() - (wall_s - 0.3)
        wait_until(lambda: len(stub.left) == 4)
    assert found == {}
    assert wall_s < 1.3
    assert sorted(left.prompt for left in stub.left) == ["p 0", "p 1", "p 2", "p 3"]
    assert max(left.at_s for left in stub.left) - stopped_at < 1.0


def test_a_run_whose_reader_stops_reading_leaves_the_server_as_well() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.3 if asked.prompt == "p 0" else 30.0) as stub:
        answers = HttpEngine(stub.base_url, "m", None, 4, 60.0, 0).run(requests(4))
        assert next(answers).row == 0
        assert len(stub.served) == 4
        answers.close()
        wait_until(lambda: len(stub.left) == 3)
    assert len(stub.left) == 3


def test_nothing_is_left_running_once_a_run_has_ended() -> None:
    with OpenAIStub(takes_s=lambda asked: 30.0) as stub:
        before = threading.active_count()
        run(stub, 4, stop=after(0.2))
        wait_until(lambda: len(stub.left) == 4)
        wait_until(lambda: threading.active_count() <= before)
        assert threading.active_count() <= before


def test_a_drain_waits_for_what_the_server_is_at_and_sends_nothing_more() -> None:
    with OpenAIStub(takes_s=lambda asked: 0.8) as stub:
        found, wall_s = run(stub, 9, stop=after(0.3), drain=True)
        asked = len(stub.served)
    assert sorted(found) == [0, 1, 2, 3]
    assert (asked, stub.left) == (4, [])
    assert wall_s < 2.0


def test_a_drain_does_not_wait_for_rows_between_their_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 0 fails at each try and would be tried for a minute. It stays pending, to be asked again on resumption."""
    monkeypatch.setattr("serving.engines.openai_api.retries.FIRST_BACKOFF_S", 20.0)

    def faulty(asked: Asked) -> Fault | None:
        return Fault.SERVER_ERROR if asked.prompt == "p 0" else None

    with OpenAIStub(faulty, takes_s=lambda asked: 0.0 if asked.prompt == "p 0" else 0.8) as stub:
        found, wall_s = run(stub, 3, stop=after(0.3), drain=True)
    assert sorted(found) == [1, 2]
    assert wall_s < 2.0


def test_a_drain_does_not_try_again_what_fails_meanwhile() -> None:
    with OpenAIStub(lambda asked: Fault.SERVER_ERROR, takes_s=lambda asked: 0.6) as stub:
        found, _ = run(stub, 3, stop=after(0.3), drain=True)
    assert found == {}
    assert stub.attempts == {"p 0": 1, "p 1": 1, "p 2": 1}


def test_a_drain_does_not_wait_for_a_server_that_asked_for_a_pause() -> None:
    def faulty(asked: Asked) -> Fault | None:
        return Fault.TOO_MANY if asked.number == 1 else None

    with OpenAIStub(faulty, takes_s=lambda asked: 0.1 if asked.number == 1 else 1.0, retry_after="60") as stub:
        found, wall_s = run(stub, 9, stop=after(0.4), drain=True)
    _, *in_flight = (int(asked.prompt.split()[1]) for asked in stub.served)  # any of the four may come first
    assert sorted(found) == sorted(in_flight)
    assert 1 <= len(in_flight) <= 3  # what was sent before the pause began, and nothing since
    assert wall_s < 2.0


def test_a_row_gets_no_more_time_over_all_its_tries_than_it_is_given() -> None:
    """Forty tries of 0.4 s each would take sixteen seconds."""
    with OpenAIStub(takes_s=lambda asked: 5.0 if asked.prompt == "p 0" else 0.0) as stub:
        found, wall_s = run(stub, 3, timeout_s=0.4, max_retries=40, row_timeout_s=1.5)
    assert {row: done.failure.code for row, done in found.items() if done.failure} == {0: "E_TIMEOUT"}
    assert 2 <= stub.attempts["p 0"] <= 5
    assert 1.4 < wall_s < 4.0


def test_the_time_of_a_row_holds_within_a_try_as_well() -> None:
    with OpenAIStub(takes_s=lambda asked: 5.0 if asked.prompt == "p 0" else 0.0) as stub:
        found, wall_s = run(stub, 2, timeout_s=60.0, row_timeout_s=0.5)
        wait_until(lambda: bool(stub.left))
    assert found[0].failure is not None
    assert (found[0].failure.code, "within 0.5 s" in found[0].failure.reason) == ("E_TIMEOUT", True)
    assert [left.prompt for left in stub.left] == ["p 0"]
    assert wall_s < 2.0


def test_a_row_whose_time_ends_while_the_server_wants_a_pause_says_what_the_server_said() -> None:
    def faulty(asked: Asked) -> Fault | None:
        return Fault.OVERLOADED if asked.prompt == "p 0" else None

    with OpenAIStub(faulty, takes_s=lambda asked: 0.2 if asked.prompt == "p 0" else 0.0, retry_after="60") as stub:
        found, wall_s = run(stub, 2, row_timeout_s=0.8)
    assert found[1].failure is None
    assert found[0].failure is not None
    assert found[0].failure.code == "E_HTTP_503"
    assert wall_s < 3.0


def test_a_try_that_timed_out_has_left_the_server() -> None:
    with OpenAIStub(takes_s=lambda asked: 5.0 if asked.attempt == 1 and asked.prompt == "p 0" else 0.0) as stub:
        found, _ = run(stub, 2, timeout_s=0.6)
        wait_until(lambda: bool(stub.left))
    assert [done.failure for done in found.values()] == [None, None]
    assert [left.prompt for left in stub.left] == ["p 0"]
