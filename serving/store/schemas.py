"""The columns of a run's tables, and the one place where values become columns and back."""

from typing import Any

import pyarrow as pa

from serving.own_json import from_own_json, own_json
from serving.records import (
    Charge,
    Choice,
    Endpoint,
    Failure,
    Message,
    Outcome,
    Refusal,
    Request,
    Settled,
    Source,
    Usage,
    sampling_from_json,
    sampling_json,
)

USD = pa.decimal128(24, 12)

REQUESTS = pa.schema(
    [
        ("row", pa.int64()),  # place in the input, over all files, refused rows counted
        ("custom_id", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("endpoint", pa.string()),
        ("messages", pa.string()),  # JSON
        ("sampling", pa.string()),  # JSON
        ("prompt_tokens", pa.int32()),  # null where the tokenizer is not at hand
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("adapter", pa.string()),  # the LoRA adapter that answers it, if one does
        ("key", pa.string()),
        ("frame", pa.string()),
        ("text", pa.string()),
    ]
)
REFUSED = pa.schema(
    [
        ("row", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("custom_id", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
    ]
)
PAIRS = pa.schema(
    [
        ("row", pa.int64()),
        ("other_row", pa.int64()),
        ("kind", pa.string()),  # exact | semantic
        ("similarity", pa.float64()),  # cosine; 1 for exact
        ("veto", pa.string()),  # why the pair may not share an answer; null if it may
    ]
)
MEMBERS = pa.schema(
    [
        ("row", pa.int64()),
        ("answered_by", pa.int64()),  # the representative whose run answers it; the row itself if it is one
        ("source", pa.string()),  # engine | exact | semantic
    ]
)
ROUTES = pa.schema(
    [
        ("row", pa.int64()),  # a representative
        ("lane", pa.string()),
        ("rule", pa.string()),  # why this lane
    ]
)
SEGMENT = pa.schema(
    [
        ("row", pa.int64()),
        ("custom_id", pa.string()),
        ("endpoint", pa.string()),
        ("outcome", pa.string()),  # answered | failed
        ("lane", pa.string()),
        ("model", pa.string()),
        ("source", pa.string()),
        ("answered_by", pa.int64()),
        ("choices", pa.string()),  # JSON
        ("prompt_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("drafted_tokens", pa.int64()),
        ("accepted_tokens", pa.int64()),
        ("queue_s", pa.float64()),
        ("prefill_s", pa.float64()),
        ("decode_s", pa.float64()),
        ("engine_s", pa.float64()),
        ("usd", USD),
        ("error_code", pa.string()),
        ("error_reason", pa.string()),
    ]
)


def request_to_columns(request: Request) -> dict[str, Any]:
    ids = request.prompt_token_ids
    return {
        "row": request.row,
        "custom_id": request.custom_id,
        "endpoint": request.endpoint.value,
        "messages": own_json(request.messages).decode(),
        "sampling": sampling_json(request.sampling),
        "prompt_tokens": None if ids is None else len(ids),
        "prompt_token_ids": ids,
        "adapter": request.adapter,
    }


def request_from_columns(columns: dict[str, Any]) -> Request:
    ids = columns["prompt_token_ids"]
    return Request(
        row=columns["row"],
        custom_id=columns["custom_id"],
        endpoint=Endpoint(columns["endpoint"]),
        messages=tuple(Message(**message) for message in from_own_json(columns["messages"])),
        sampling=sampling_from_json(columns["sampling"]),
        prompt_token_ids=None if ids is None else tuple(ids),
        adapter=columns["adapter"],
    )


def refusal_to_columns(refusal: Refusal) -> dict[str, Any]:
    return {name: getattr(refusal, name) for name in Refusal.__slots__}


def settled_to_columns(settled: Settled) -> dict[str, Any]:
    failure = settled.failure
    return {
        "row": settled.row,
        "custom_id": settled.custom_id,
        "endpoint": settled.endpoint.value,
        "outcome": settled.outcome.value,
        "lane": settled.lane,
        "model": settled.model,
        "source": settled.source.value,
        "answered_by": settled.answered_by,
        "choices": own_json(settled.choices).decode(),
        "prompt_tokens": settled.usage.prompt_tokens,
        "completion_tokens": settled.usage.completion_tokens,
        "cached_tokens": settled.usage.cached_tokens,
        "drafted_tokens": settled.usage.drafted_tokens,
        "accepted_tokens": settled.usage.accepted_tokens,
        "queue_s": settled.queue_s,
        "prefill_s": settled.prefill_s,
        "decode_s": settled.decode_s,
        "engine_s": settled.charge.engine_s,
        "usd": settled.charge.usd,
        "error_code": failure.code if failure else None,
        "error_reason": failure.reason if failure else None,
    }


def settled_from_columns(columns: dict[str, Any]) -> Settled:
    failed = columns["error_code"] is not None
    return Settled(
        row=columns["row"],
        custom_id=columns["custom_id"],
        endpoint=Endpoint(columns["endpoint"]),
        outcome=Outcome(columns["outcome"]),
        lane=columns["lane"],
        model=columns["model"],
        source=Source(columns["source"]),
        answered_by=columns["answered_by"],
        choices=tuple(Choice(**choice) for choice in from_own_json(columns["choices"])),
        usage=Usage(**{name: columns[name] for name in Usage.__slots__}),
        charge=Charge(columns["engine_s"], columns["usd"]),
        failure=Failure(columns["error_code"], columns["error_reason"]) if failed else None,
        queue_s=columns["queue_s"],
        prefill_s=columns["prefill_s"],
        decode_s=columns["decode_s"],
    )
