"""What Retry-After may say, and what it may not."""

import pytest

from serving.engines.openai_api.retries import (
    FIRST_BACKOFF_S,
    MAX_BACKOFF_S,
    MAX_RETRY_AFTER_S,
    backoff_s,
    retry_after_s,
)

NOON = "Wed, 25 Nov 2026 12:00:00 GMT"
NOON_S = 1795608000.0  # date -d '2026-11-25 12:00:00 UTC' +%s


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("1e300", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("Wed, 25 Nov 2026 12:00:30 GMT", 30.0),
        ("Wednesday, 25-Nov-26 12:00:30 GMT", 30.0),  # the older form that RFC 9110 still wants to be read
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 21 Oct 2035 07:28:00 GMT", MAX_RETRY_AFTER_S),
        ("soon", None),
        ("", None),
        ("Wed, 99 Nov 2026 12:00:00 GMT", None),
        ("Wed, 25 Nov 99999 12:00:00 GMT", None),
    ],
)
def test_seconds_and_dates_are_read_within_reason(asked: str, wait_s: float | None) -> None:
    assert retry_after_s({"retry-after": asked}, NOON_S) == wait_s


def test_no_header_asks_for_nothing() -> None:
    assert retry_after_s({}, NOON_S) is None


def test_a_date_is_read_by_the_servers_own_clock() -> None:
    """Ours is an hour behind; the server means ten seconds."""
    headers = {"retry-after": "Wed, 25 Nov 2026 12:00:10 GMT", "date": NOON}
    assert retry_after_s(headers, NOON_S - 3600) == 10.0


def test_the_backoff_doubles_up_to_its_limit() -> None:
    for attempt in range(12):
        whole = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
        assert whole / 2 <= backoff_s(attempt) <= whole
