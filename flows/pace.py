"""How fast a run goes and how long it will still take, from what its engine has computed so far.

What is left is priced by what the parts of the engine's steps take, or, where it shows none, by what a token took so
far, of a prompt and of an answer. What is in flight counts as far as it is computed, and tells of how long answers get:
after a fifth of a run most of what has finished is what was short.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from optimizer.cost import EQUAL_RATES
from optimizer.planner.own_steps import fitted
from optimizer.remaining import Group, remaining
from optimizer.survival import Lengths
from serving.records import Interval, Rates, StepEvidence, Usage

LEAST_S, LEAST_REQUESTS, LEAST_STEPS = 1.0, 8, 16  # before that there is nothing to tell from
KNOWN_S = 5.0  # seconds of steps that what earlier runs took is trusted as
SPEED_DEVIATION = 0.04  # of the rest of a run from its beginning, beside what lengths vary
Z_90 = 1.645
BITS = 3  # limits of answers are told apart by so many: four kinds an octave


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the engine that is ready is to run, and what comes after it."""

    requests: Counter[int]  # by the most tokens that each may put out
    prompt_tokens: int | None  # None where a server counts them
    later_s: float = 0.0  # of engines after it
    slots: int = 1  # requests that run at once
    known: StepEvidence | None = None  # steps of this engine in earlier runs
    # Answers to this input in earlier runs, by the most tokens that each could have put out, and by its length.
    earlier: Mapping[int, Counter[int]] = field(default_factory=dict)


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
    evidence: StepEvidence | None = None  # of the steps of this engine


Tell = Callable[[], Now]


@dataclass(slots=True)
class Pace:
    """Of one engine at a time."""

    rows: int = 0
    done: int = 0  # rows that are settled, or about to be
    prompt_tokens_left: int | None = 0
    _later_s: float = 0.0
    _ahead: Ahead = field(default_factory=lambda: Ahead(Counter(), 0))
    _left: Counter[int] = field(default_factory=Counter)  # requests that have not finished, by the limit of an answer
    _lengths: defaultdict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # of answers, by it
    _finished: int = 0
    _began_s: float | None = None
    _prompt_tokens: int = 0  # of finished requests
    _cached_tokens: int = 0
    _output_tokens: int = 0
    _drafted: bool = False

    def begin(self, ahead: Ahead) -> None:
        self._ahead, self.prompt_tokens_left, self._later_s = ahead, ahead.prompt_tokens, ahead.later_s
        self._left = Counter()
        for most, requests in ahead.requests.items():
            self._left[_kind(most)] += requests
        self._lengths.clear()
        for most, lengths in ahead.earlier.items():
            self._lengths[_kind(most)] += lengths
        self._finished = 0
        self._began_s = time.monotonic()
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0
        self._drafted = False

    def more(self, ahead: Ahead) -> None:
        """The same engine is to run these as well, and those after it so much less."""
        self._later_s = max(0.0, self._later_s + ahead.later_s)
        for most, requests in ahead.requests.items():
            self._left[_kind(most)] += requests
        if self.prompt_tokens_left is not None and ahead.prompt_tokens is not None:
            self.prompt_tokens_left += ahead.prompt_tokens

    def advance(self, rows: int, usage: Usage, most_tokens: int) -> None:
        self.done += rows
        kind = _kind(most_tokens)
        self._left[kind] = max(0, self._left[kind] - 1)
        if usage.completion_tokens:  # one that failed tells nothing of how long answers get
            self._lengths[kind][usage.completion_tokens] += 1
        self._finished += 1
        if self.prompt_tokens_left is not None:
            self.prompt_tokens_left = max(0, self.prompt_tokens_left - usage.prompt_tokens)
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._output_tokens += usage.completion_tokens
        self._drafted |= usage.drafted_tokens > 0

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
        groups = self._groups(now)
        output, deviates = _output_of(groups, self._lengths)
        told = self._by_steps(groups, now) if self._shows_steps(now) else self._by_rates(output, now)
        if told is None:
            return None
        seconds, of_answers = told
        spread_s = seconds * math.hypot(SPEED_DEVIATION, of_answers * deviates / output if output else 0.0)
        seconds += self._later_s
        return Interval(seconds, max(0.0, seconds - Z_90 * spread_s), seconds + Z_90 * spread_s)

    def _shows_steps(self, now: Now) -> bool:
        """Where tokens are guessed, a step's parts are not those of the answers."""
        known = 0 if self._ahead.known is None else self._ahead.known.steps
        return now.evidence is not None and now.evidence.steps + known >= LEAST_STEPS and not self._drafted

    def _by_steps(self, groups: Sequence[Group], now: Now) -> tuple[float, float] | None:
        """Seconds, and the share of answers in them, from what the parts of this engine's steps take. How fast the
        machine is now, its own steps tell; what each part of one takes, those of earlier runs as well."""
        assert now.evidence is not None
        known = self._ahead.known
        times = fitted(now.evidence if known is None else known + now.evidence)
        found = self._cached_tokens / max(1, self._prompt_tokens)
        prompt = (self._prompt_tokens + self._prompts_ahead()) / max(1, self._finished + self._left.total())
        parts = remaining(groups, self._ahead.slots, self._prompts_left(now), prompt, found)
        expected, left = times.of(now.evidence.totals), times.of(parts)
        if not expected:
            return None
        trusted_s = KNOWN_S if known is not None else 0.0
        slower = (now.evidence.seconds + trusted_s) / (expected + trusted_s)
        of_answers = times.of(parts._replace(prefilled=0.0, attended=0.0))
        return slower * left, of_answers / left if left else 0.0

    def _by_rates(self, output: float, now: Now) -> tuple[float, float] | None:
        """The same where an engine tells no more than what a token took, or nothing."""
        rates = now.rates or EQUAL_RATES
        prefill, decode = rates.prefill_s_per_token, rates.decode_s_per_token
        if not (computed := now.prompt_tokens * prefill + now.completion_tokens * decode):
            return None
        unseen = now.completion_tokens - self._output_tokens - sum(one.tokens for one in now.under_way)
        output = max(0.0, output - unseen)
        left = self._prompts_left(now) * prefill + output * decode
        return self.elapsed_s * left / computed, output * decode / left if left else 0.0

    def _prompts_ahead(self) -> float:
        if self.prompt_tokens_left is not None:
            return self.prompt_tokens_left
        return self._left.total() * self._prompt_tokens / self._finished

    def _prompts_left(self, now: Now) -> float:
        """Tokens of prompts that are still to be computed."""
        missed = 1 - self._cached_tokens / max(1, self._prompt_tokens)
        return max(0.0, (self._prompt_tokens + self._prompts_ahead()) * missed - now.prompt_tokens)

    def _groups(self, now: Now) -> list[Group]:
        """The requests that have not finished, by the limit of an answer."""
        under_way: defaultdict[int, list[int]] = defaultdict(list)
        for one in now.under_way:
            if one.tokens:
                under_way[_kind(one.most_tokens)].append(one.tokens)
        used = _share_used(self._lengths)
        groups = []
        for kind, requests in self._left.items():
            if requests:
                ages, known = under_way[kind], self._lengths[kind]
                if known.total() < LEAST_REQUESTS:  # too few of its kind: of the limit as much as others use
                    lengths = Lengths({max(1, round(used * kind)): 1}, [], kind)
                else:
                    lengths = Lengths(known, ages, kind)
                groups.append(Group(lengths, max(0, requests - len(ages)), ages))
        return groups


def _output_of(groups: Sequence[Group], known: Mapping[int, Counter[int]]) -> tuple[float, float]:
    """Tokens that are still to be put out, and how far that may be off (one standard deviation)."""
    tokens = variance = 0.0
    for group in groups:
        requests, seen = group.waiting + len(group.ages), known.get(group.lengths.most, Counter[int]()).total()
        tokens += group.waiting * group.lengths.beyond(0) + sum(map(group.lengths.beyond, group.ages))
        deviates = group.lengths.deviation if seen >= LEAST_REQUESTS else group.lengths.beyond(0)
        variance += deviates**2 * (requests + requests**2 / max(seen, LEAST_REQUESTS))
    return tokens, math.sqrt(variance)


def _share_used(known: Mapping[int, Counter[int]]) -> float:
    """Of their limits, by all answers that are known."""
    each = [(kind * count, length * count) for kind, lengths in known.items() for length, count in lengths.items()]
    return sum(tokens for _, tokens in each) / max(1, sum(limit for limit, _ in each))


def _kind(most_tokens: int) -> int:
    """A limit, rounded up so that there are few."""
    step = 1 << max(0, most_tokens.bit_length() - BITS)
    return -(-most_tokens // step) * step
