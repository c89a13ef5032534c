"""Which replies are worth another try, and how long to wait before it."""

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504, 529}
OVERLOADED = {429, 503, 504, 529}
REFUSES_US = {401, 403, 404}
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 120.0  # limits by the minute are common; a server that means tomorrow is asked again before that


def backoff_s(attempt: int) -> float:
    """Doubling with jitter, so that many clients do not come back at once."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """What the server asks for, in seconds or as a date, within reason; None where it asks for nothing that is known.

    A date is read by the server's own clock where it shows it, else by ours, `now_s` of the epoch.
    """
    asked = headers.get("retry-after", "")
    try:
        wait_s = float(asked)
    except ValueError:
        at_s = _epoch_s(asked)
        if at_s is None:
            return None
        wait_s = at_s - (_epoch_s(headers.get("date", "")) or now_s)
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S)


def _epoch_s(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, OverflowError):
        return None
