"""Rows that have left a run, made by hand: what a segment holds of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from serving.own_json import own_json
from serving.records import Choice, Endpoint, Failure, Outcome, Overhead, Source, Usage
from serving.store.schemas import SEGMENT
from serving.store.segments import Span


@dataclass(frozen=True, slots=True)
class Settled:
    row: int
    custom_id: str
    answered_by: int
    usage: Usage
    engine_s: float = 0.0
    usd: Decimal = Decimal(0)
    choices: tuple[Choice, ...] = ()
    source: Source = Source.ENGINE
    outcome: Outcome = Outcome.ANSWERED
    endpoint: Endpoint = Endpoint.CHAT
    lane: str = "full"
    model: str = "echo-model"
    failure: Failure | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """Of SEGMENT."""
        failure = self.failure
        return {
            **{name: getattr(self, name) for name in SEGMENT.names if hasattr(self, name)},
            **{name: getattr(self.usage, name) for name in Usage.__struct_fields__},
            "choices": own_json(self.choices).decode(),
            "error_code": failure.code if failure else None,
            "error_reason": failure.reason if failure else None,
        }


def span_of(rows: Sequence[Settled], overheads: Sequence[Overhead] = (), **rest: Any) -> Span:
    return Span(pa.RecordBatch.from_pylist([row.columns for row in rows], SEGMENT), list(overheads), **rest)
