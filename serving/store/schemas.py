"""The columns of a run's tables, and the one place where values become columns and back."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.records import Choice, Completion, Endpoint, Message, Refusal, Request, Usage, sampling_from_json

USD = pa.decimal128(24, 12)
LIKENESS = (
    "similarity",
    "crowd",
    "words_apart",
    "generic_apart",
    "names_apart",
    "one_sided",
    "in_common",
    "length",
)  # see optimizer.likeness
USED = ("prompt_tokens", "cached_tokens", "completion_tokens", "drafted_tokens", "accepted_tokens")  # of SEGMENT
ASKED = ["row", "custom_id", "endpoint", "messages", "sampling", "adapter", "prompt_token_ids"]  # of a request

_ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}
_MESSAGES = msgspec.json.Decoder(tuple[Message, ...])
_CHOICES = msgspec.json.Decoder(tuple[Choice, ...])

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
        ("equals", pa.int64()),  # the first row with the same key: these share an answer, whoever gives it
        ("answered_by", pa.int64()),  # the representative whose run may answer it; the row itself if it is one
        ("source", pa.string()),  # engine | exact | semantic
    ]
)
NEAR = pa.schema(
    [
        ("row", pa.int64()),  # one that a near-duplicate may answer
        ("equals", pa.int64()),
        ("answered_by", pa.int64()),
        ("beginning", pa.string()),  # how its prompt begins: rows of one template begin alike
        *((name, pa.float64()) for name in LIKENESS),  # of the two prompts: what audits are learned from
    ]
)
LOOKS = pa.schema(
    [
        ("lever", pa.string()),  # near, or the name of a lane
        ("look", pa.int64()),  # from 0 on: each chooses after what audits of the ones before have found
        ("row", pa.int64()),  # one that is to be served without a run of the full model
        ("chance_wrong", pa.float64()),  # as learned from earlier audits; null in the first look
        ("drawn", pa.int64()),  # when, in the draw; null if the full model is not to answer it
        ("audited", pa.bool_()),  # in this look; rows that are drawn and not audited are kept for a later one
    ]
)
VERDICTS = pa.schema(
    [
        ("lever", pa.string()),
        ("look", pa.int64()),
        ("row", pa.int64()),  # an audited one
        ("agrees", pa.bool_()),  # what it would have been answered, with what the full model answered it
    ]
)
CONTROLS = pa.schema(
    [
        ("lever", pa.string()),
        ("look", pa.int64()),
        ("row", pa.int64()),  # whose answer a model that judges was shown beside that of
        ("other_row", pa.int64()),  # another request: it should call them different
        ("called_same", pa.bool_()),
    ]
)
NOISE = pa.schema(
    [
        ("row", pa.int64()),  # one that the full model was asked twice
        ("agrees", pa.bool_()),  # its second answer with its first
    ]
)
CERTIFICATES = pa.schema(
    [
        ("lever", pa.string()),
        ("look", pa.int64()),
        ("rows", pa.int64()),  # that were to be served so, less those whose representative failed
        ("audited", pa.int64()),
        ("wrong", pa.int64()),  # of the audited
        ("most_wrong", pa.int64()),  # of all, with confidence 1 - delta
        ("max_wrong", pa.float64()),  # the share that the job allows
        ("delta", pa.float64()),  # of this look; those of all looks of all levers add up to no more than the job's
        ("seed", pa.int64()),
        ("certified", pa.bool_()),
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
EARLIER = pa.schema(
    [
        ("row", pa.int64()),  # the first with its key
        ("from_run", pa.string()),  # that has answered the same key; it may be gone by now
        ("from_row", pa.int64()),
        *(SEGMENT.field(name) for name in ("choices", *USED)),
    ]
)
TRIALS = pa.schema(
    [
        ("lever", pa.string()),
        ("look", pa.int64()),  # whose audit asked for it; null if all that were left were tried
        ("row", pa.int64()),  # the first with its key
        ("confidence", pa.float64()),  # mean logarithm of the tokens' probabilities; null where it is not told
        *(SEGMENT.field(name) for name in ("choices", *USED)),  # what the cheaper model answered
    ]
)
NO_ROWS = pa.RecordBatch.from_pylist([], SEGMENT)


def requests_from(table: pa.Table) -> Iterator[Request]:
    """The requests of a table that has the columns ASKED, in its order."""
    ids = (_lists(chunk) for chunk in table["prompt_token_ids"].chunks)
    others = (table[name].to_pylist() for name in ASKED[:-1])
    for row, custom_id, endpoint, messages, sampling, adapter, prompt in zip(*others, chain(*ids), strict=True):
        yield Request(
            row, custom_id, _ENDPOINTS[endpoint], messages_from(messages), sampling_from_json(sampling), prompt,
            adapter,
        )  # fmt: skip


def messages_from(text: str) -> tuple[Message, ...]:
    """The messages of a row of REQUESTS."""
    return _MESSAGES.decode(text)


def choices_from(text: str) -> tuple[Choice, ...]:
    """The answers of a row of SEGMENT."""
    return _CHOICES.decode(text)


def _lists(column: pa.ListArray) -> Iterator[tuple[int, ...] | None]:
    """Each list of integers, or None; read at once, since to ask Arrow for one number costs as much as for a list."""
    if column.null_count == len(column):
        yield from repeat(None, len(column))
        return
    values, ends = column.values.to_numpy(), column.offsets.to_pylist()
    for start, end, there in zip(ends, ends[1:], column.is_valid().to_pylist(), strict=False):
        yield tuple(values[start:end].tolist()) if there else None


def usage_columns(finished: Sequence[Completion]) -> dict[str, NDArray[np.int64]]:
    """What each used, by the names of Usage."""
    used = np.array([msgspec.structs.astuple(completion.usage) for completion in finished], np.int64)
    return dict(zip(Usage.__struct_fields__, used.reshape(-1, len(Usage.__struct_fields__)).T, strict=True))


def usd_column(steps: NDArray[np.int64]) -> pa.Array:
    """Money from whole numbers of its last digit: 128-bit integers, low half first."""
    halves = np.stack([steps, steps >> 63], axis=1)
    return pa.Array.from_buffers(USD, len(steps), [None, pa.py_buffer(halves.astype("<i8"))])


def refusal_to_columns(refusal: Refusal) -> dict[str, Any]:
    return {name: getattr(refusal, name) for name in Refusal.__slots__}
