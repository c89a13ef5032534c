"""How fast a run goes and how long it will still take, from what its engine has computed so far.

A request is weighed by what its tokens cost at the engine's own rates, since prompts and answers differ in what a token
takes and in how many of them are left. What is in flight counts as far as it is computed, and tells of how long answers
get: after a fifth of a run most of what has finished is what was short.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from optimizer.cost import EQUAL_RATES
from optimizer.survival import Lengths
from serving.records import Interval, Rates, Usage

LEAST_S, LEAST_REQUESTS = 1.0, 8  # before that there is nothing to tell from
SPEED_DEVIATION = 0.04  # of the rest of a run from its beginning, beside what lengths vary
Z_90 = 1.645
BITS = 3  # limits of answers are told apart by so many: four kinds an octave


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the engine that is ready is to run, and what comes after it."""

    requests: Counter[int]  # by the most tokens that each may put out
    prompt_tokens: int | None  # None where a server counts them
    later_s: float = 0.0  # of engines after it
    earlier: Mapping[int, Counter[int]] = field(
        default_factory=dict
    )  # answers to this input before, by that and length


@dataclass(frozen=True, slots=True)
class UnderWay:
    most_tokens: int  # that it may put out, and
    tokens: int  # has put out so far


@dataclass(frozen=True, slots=True)
class Now:
    """What is true while an answer comes in."""

    usd: Decimal  # spent by the whole run
    prompt_tokens: int  # that this engine has computed, and
    completion_tokens: int  # put out, for requests in flight as well
    rates: Rates | None
    under_way: Sequence[UnderWay] = ()  # as far as it can be seen


Tell = Callable[[], Now]


@dataclass(slots=True)
class Pace:
    """Of one engine at a time."""

    rows: int = 0
    done: int = 0  # rows that are settled, or about to be
    prompt_tokens_left: int | None = 0
    later_s: float = 0.0
    _left: Counter[int] = field(default_factory=Counter)  # requests that have not finished, by the limit of an answer
    _lengths: defaultdict[int, Counter[int]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # of answers, by that
    _finished: int = 0
    _began_s: float | None = None
    _prompt_tokens: int = 0  # of finished requests
    _cached_tokens: int = 0
    _output_tokens: int = 0

    def begin(self, ahead: Ahead) -> None:
        self.prompt_tokens_left, self.later_s = ahead.prompt_tokens, ahead.later_s
        self._left = Counter()
        for most, requests in ahead.requests.items():
            self._left[_kind(most)] += requests
        self._lengths.clear()
        for most, lengths in ahead.earlier.items():
            self._lengths[_kind(most)] += lengths
        self._finished = 0
        self._began_s = time.monotonic()
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    def advance(self, rows: int, usage: Usage, most_tokens: int) -> None:
        self.done += rows
        kind = _kind(most_tokens)
        self._left[kind] = max(0, self._left[kind] - 1)
        self._lengths[kind][usage.completion_tokens] += 1
        self._finished += 1
        if self.prompt_tokens_left is not None:
            self.prompt_tokens_left = max(0, self.prompt_tokens_left - usage.prompt_tokens)
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._output_tokens += usage.completion_tokens

    @property
    def elapsed_s(self) -> float:
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def tokens_per_s(self, now: Now) -> float | None:
        if self.elapsed_s < LEAST_S or not self._finished:
            return None
        return (now.prompt_tokens + now.completion_tokens) / self.elapsed_s

    def left_s(self, now: Now) -> Interval | None:
        """None while too little has finished."""
        if self.elapsed_s < LEAST_S or self._finished < LEAST_REQUESTS:
            return None
        rates = now.rates or EQUAL_RATES
        prefill, decode = rates.prefill_s_per_token, rates.decode_s_per_token
        computed = now.prompt_tokens * prefill + now.completion_tokens * decode
        if not computed:
            return None
        output, deviates = self._output_left(now)
        left = self._prompts_left(now) * prefill + output * decode
        seconds = self.elapsed_s * left / computed
        spread_s = seconds * math.hypot(SPEED_DEVIATION, deviates * decode / left if left else 0.0)
        seconds += self.later_s
        return Interval(seconds, max(0.0, seconds - Z_90 * spread_s), seconds + Z_90 * spread_s)

    def _prompts_left(self, now: Now) -> float:
        missed = 1 - self._cached_tokens / max(1, self._prompt_tokens)
        left: float | None = self.prompt_tokens_left
        if left is None:
            left = self._left.total() * self._prompt_tokens / self._finished
        return max(0.0, (self._prompt_tokens + left) * missed - now.prompt_tokens)

    def _output_left(self, now: Now) -> tuple[float, float]:
        """Tokens that are still to be put out, and how far that may be off (one standard deviation)."""
        under_way = defaultdict(list)
        for one in now.under_way:
            under_way[_kind(one.most_tokens)].append(one.tokens)
        used = self._share_used()
        tokens = variance = 0.0
        for kind, requests in self._left.items():
            if not requests:
                continue
            ages, known = under_way[kind], self._lengths[kind]
            waiting = max(0, requests - len(ages))
            if (seen := known.total()) < LEAST_REQUESTS:  # too few of its kind: of the limit as much as others use
                each = used * kind
                tokens += waiting * each + sum(max(0.0, each - age) for age in ages)
                variance += (requests * each) ** 2 / LEAST_REQUESTS
                continue
            lengths = Lengths(known, ages, kind)
            tokens += waiting * lengths.beyond(0) + sum(map(lengths.beyond, ages))
            variance += lengths.deviation**2 * (requests + requests**2 / seen)
        unseen = now.completion_tokens - self._output_tokens - sum(one.tokens for one in now.under_way)
        return max(0.0, tokens - unseen), math.sqrt(variance)

    def _share_used(self) -> float:
        """Of their limits, by all answers that are known."""
        each = [
            (kind * count, length * count) for kind, known in self._lengths.items() for length, count in known.items()
        ]
        return sum(tokens for _, tokens in each) / max(1, sum(limit for limit, _ in each))


def _kind(most_tokens: int) -> int:
    """A limit, rounded up so that there are few."""
    step = 1 << max(0, most_tokens.bit_length() - BITS)
    return -(-most_tokens // step) * step
