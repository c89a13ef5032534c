"""JSON of our own values, once or more for every row. Text from outside is read by serving.intake.strict_json alone."""

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()


def own_json(value: Any) -> bytes:
    """Compact UTF-8, equal for equal values: keys sorted, a record's fields in their order, decimals as text."""
    return _encoder.encode(value)


def from_own_json(text: str | bytes) -> Any:
    return _decoder.decode(text)
