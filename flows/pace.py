"""How fast a run goes and how long it will still take, from what its engine has computed so far.

A request is weighed by what its tokens cost at the engine's own rates, since prompts and answers differ in what a token
takes and in how many of them are left. What is in flight counts as far as it is computed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from optimizer.cost import EQUAL_RATES
from serving.records import Interval, Rates, Usage

LEAST_S, LEAST_REQUESTS = 1.0, 8  # before that there is nothing to tell from
SPEED_DEVIATION = 0.04  # of the rest of a run from its beginning, beside what lengths vary
Z_90 = 1.645


@dataclass(frozen=True, slots=True)
class Now:
    """What is true while an answer comes in."""

    usd: Decimal  # spent by the whole run
    prompt_tokens: int  # that this engine has computed, and
    completion_tokens: int  # put out, for requests in flight as well
    rates: Rates | None


Tell = Callable[[], Now]


@dataclass(slots=True)
class Pace:
    """Of one engine at a time; requests of later lanes are taken to run as this one does."""

    rows: int = 0
    done: int = 0  # rows that are settled, or about to be
    requests_left: int = 0
    prompt_tokens_left: int | None = 0  # None where a server counts them
    _began_s: float | None = None
    _finished: int = 0
    _prompt_tokens: int = 0  # of finished requests
    _cached_tokens: int = 0
    _outputs: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum, and sum of squares

    def begin(self, requests: int, prompt_tokens: int | None) -> None:
        """An engine is ready; so much is to be run, by it and after it."""
        self.requests_left, self.prompt_tokens_left = requests, prompt_tokens
        self._began_s = time.monotonic()
        self._finished = self._prompt_tokens = self._cached_tokens = 0
        self._outputs = [0.0, 0.0]

    def advance(self, rows: int, usage: Usage) -> None:
        self.done += rows
        self.requests_left = max(0, self.requests_left - 1)
        if self.prompt_tokens_left is not None:
            self.prompt_tokens_left = max(0, self.prompt_tokens_left - usage.prompt_tokens)
        self._finished += 1
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._outputs[0] += usage.completion_tokens
        self._outputs[1] += usage.completion_tokens**2

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
        output, deviation = self._output()
        missed = 1 - self._cached_tokens / max(1, self._prompt_tokens)
        prompts = self.prompt_tokens_left
        if prompts is None:
            prompts = round(self.requests_left * self._prompt_tokens / self._finished)
        whole = (self._prompt_tokens + prompts) * missed * prefill
        whole += (self._outputs[0] + self.requests_left * output) * decode
        computed = now.prompt_tokens * prefill + now.completion_tokens * decode
        left = max(0.0, whole - computed)
        if not computed:
            return None
        seconds = self.elapsed_s * left / computed
        spread = self._spread(
            output * decode * self.requests_left / left if left else 0.0, deviation / max(1.0, output)
        )
        return Interval(seconds, seconds * max(0.0, 1 - Z_90 * spread), seconds * (1 + Z_90 * spread))

    def _output(self) -> tuple[float, float]:
        """Mean and deviation of the answers so far, in tokens."""
        mean = self._outputs[0] / self._finished
        return mean, math.sqrt(max(0.0, self._outputs[1] / self._finished - mean**2))

    def _spread(self, share_of_answers: float, deviation: float) -> float:
        drawn = 1 / self._finished + 1 / max(1, self.requests_left)
        return math.hypot(SPEED_DEVIATION, min(1.0, share_of_answers) * deviation * math.sqrt(drawn))
