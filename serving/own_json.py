"""JSON of our own values, once or more for every row. Text from outside is read by serving.intake.strict_json alone."""

from typing import Any

import orjson


def own_json(value: Any) -> bytes:
    """Compact UTF-8, equal for equal values: keys sorted, a record's fields in their order, decimals as text."""
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)


def from_own_json(text: str | bytes) -> Any:
    return orjson.loads(text)
