"""Money: exact decimals, shared out so that rows add up to the bill to the last digit. Pure."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
from numpy.typing import NDArray

from serving.records import Price, Rates, Usage

Counts = NDArray[np.int64]

USD_STEP = Decimal("0.000000000001")  # what the ledger's decimal columns hold
MTOK = Decimal(1_000_000)
HOUR_S = Decimal(3600)
EQUAL_RATES = Rates(1.0, 1.0)  # where an engine does not show its steps, a token is a token


def usd_of_time(price: Price, seconds: float) -> Decimal:
    """What engine time costs; nothing where tokens are billed instead."""
    if price.usd_per_hour is None:
        return Decimal(0)
    return (price.usd_per_hour * Decimal(repr(seconds)) / HOUR_S).quantize(USD_STEP, ROUND_HALF_EVEN)


def usd_of_tokens(price: Price, usage: Usage) -> Decimal:
    assert price.input_usd_per_mtok is not None
    assert price.output_usd_per_mtok is not None
    listed = usage.prompt_tokens * price.input_usd_per_mtok + usage.completion_tokens * price.output_usd_per_mtok
    return (listed / MTOK).quantize(USD_STEP, ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Charges:
    """What each row that ran in a span of engine time cost."""

    engine_s: NDArray[np.float64]
    usd_steps: Counts  # in USD_STEP


def share_out(
    seconds: float,
    price: Price,
    prompt_tokens: Counts,
    cached_tokens: Counts,
    completion_tokens: Counts,
    rates: Rates | None,
) -> Charges:
    """The charges of the rows that ran in a span of engine time, by what each used.

    Billed by time, the span is shared by what each row's tokens cost at the measured rates; rows add up to the span's
    bill exactly. Billed by tokens, each row costs its own tokens and the time is for information.
    """
    computed = np.maximum(0, prompt_tokens - cached_tokens)
    rates = rates or EQUAL_RATES
    weights = computed * rates.prefill_s_per_token + completion_tokens * rates.decode_s_per_token
    total = weights.sum()
    shares = weights / total if total else np.full(len(weights), 1 / max(1, len(weights)))
    if price.bills_time:
        return Charges(seconds * shares, split_exactly(usd_of_time(price, seconds), shares))
    used = zip(prompt_tokens.tolist(), completion_tokens.tolist(), strict=True)
    bills = [int(usd_of_tokens(price, Usage(*tokens)) / USD_STEP) for tokens in used]
    return Charges(seconds * shares, np.array(bills, np.int64))


def split_exactly(usd: Decimal, shares: NDArray[np.float64]) -> Counts:
    """`usd` in parts by `shares` (summing to 1), in USD_STEP; the parts add up to it exactly (largest remainder)."""
    steps = int(usd / USD_STEP)
    ideal = steps * shares
    parts = ideal.astype(np.int64)
    if left := steps - int(parts.sum()):
        by_remainder = np.argsort(parts - ideal, kind="stable")
        np.add.at(parts, np.resize(by_remainder, abs(left)), 1 if left > 0 else -1)
    return parts
