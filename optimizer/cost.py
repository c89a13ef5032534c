"""Money: exact decimals, shared out so that rows add up to the bill to the last digit. Pure."""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from serving.records import Charge, Price, Rates, Usage

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


def share_out(seconds: float, price: Price, usages: Sequence[Usage], rates: Rates | None) -> list[Charge]:
    """The charge of each row that ran in a span of engine time.

    Billed by time, the span is shared by what each row's tokens cost at the measured rates; rows add up to the span's
    bill exactly. Billed by tokens, each row costs its own tokens and the time is for information.
    """
    if not usages:
        return []
    weights = [_weight(usage, rates or EQUAL_RATES) for usage in usages]
    total = sum(weights)
    shares = [weight / total if total else 1 / len(weights) for weight in weights]
    if not price.bills_time:
        bills = [usd_of_tokens(price, usage) for usage in usages]
    else:
        bills = split_exactly(usd_of_time(price, seconds), shares)
    return [Charge(seconds * share, usd) for share, usd in zip(shares, bills, strict=True)]


def split_exactly(usd: Decimal, shares: Sequence[float]) -> list[Decimal]:
    """`usd` in parts by `shares` (summing to 1); the parts add up to it exactly (largest remainder)."""
    steps = int(usd / USD_STEP)
    ideal = [steps * share for share in shares]
    parts = [int(part) for part in ideal]
    by_remainder = sorted(range(len(parts)), key=lambda place: (parts[place] - ideal[place], place))
    left = steps - sum(parts)
    for turn in range(abs(left)):
        parts[by_remainder[turn % len(parts)]] += 1 if left > 0 else -1
    return [part * USD_STEP for part in parts]


def _weight(usage: Usage, rates: Rates) -> float:
    return rates.seconds(max(0, usage.prompt_tokens - usage.cached_tokens), usage.completion_tokens)
