"""The work that a plan is made for: how many requests, how long they are, by when, and what may be given up for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.steady_state import Lengths

Numbers = NDArray[np.float64]

ATOMS = 64  # lengths that stand for a distribution: means of as many equal slices of it
MOST_OVER_P99 = 1.5  # the longest length over the 99th percentile, where only percentiles are told
ACCEPTANCE_ASSUMED = 0.6  # of a guessed token, where none was measured; only to say what guessing would have done


@dataclass(frozen=True)
class TokenCounts:
    """Lengths, ascending and equally likely, that stand for a distribution."""

    atoms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.atoms or min(self.atoms) < 1 or list(self.atoms) != sorted(self.atoms):
            raise ValueError("lengths must be at least one token each, ascending")

    @classmethod
    def fixed(cls, tokens: float) -> "TokenCounts":
        return cls((float(tokens),))

    @classmethod
    def of(cls, lengths: Iterable[int]) -> "TokenCounts":
        """Of lengths that were counted; few or a hundred million."""
        ordered = np.sort(np.fromiter(lengths, dtype=np.float64))
        if len(ordered) <= ATOMS:
            return cls(tuple(ordered.tolist()))
        edges = np.linspace(0, len(ordered), ATOMS + 1).astype(np.int64)
        slices = np.add.reduceat(ordered, edges[:-1]) / np.diff(edges)
        return cls(tuple(slices.tolist()))

    @classmethod
    def of_percentiles(cls, mean: float, percentiles: Mapping[float, float]) -> "TokenCounts":
        """From a mean and percentiles, such as {50: 90, 90: 260, 99: 700}: logarithms between them are straight lines.

        What percentiles leave open is settled by the mean. Without percentiles all lengths are the mean.
        """
        if not percentiles:
            return cls.fixed(mean)
        places, tokens = (
            np.array(column, dtype=np.float64) for column in zip(*sorted(percentiles.items()), strict=True)
        )
        if np.any(np.diff(tokens) < 0) or places[0] < 0 or places[-1] > 100 or tokens[0] < 1:
            raise ValueError("percentiles must ascend, within 0 to 100, from one token on")
        logs = np.log(tokens)
        if places[-1] < 100:
            places, logs = np.append(places, 100.0), np.append(logs, logs[-1] + np.log(MOST_OVER_P99))
        if places[0] > 0:
            # Below the lowest one, as much shorter as the next one above is longer.
            slope = (logs[1] - logs[0]) / (places[1] - places[0])
            places, logs = np.insert(places, 0, 0.0), np.insert(logs, 0, max(0.0, logs[0] - slope * places[0]))
        drawn = np.exp(np.interp((np.arange(ATOMS) + 0.5) / ATOMS * 100, places, logs))
        return cls(tuple(np.maximum(drawn * mean / drawn.mean(), 1.0).tolist()))

    @property
    def mean(self) -> float:
        return sum(self.atoms) / len(self.atoms)

    @property
    def squared(self) -> float:
        """Mean of the squares."""
        return sum(tokens * tokens for tokens in self.atoms) / len(self.atoms)

    @property
    def longest(self) -> float:
        return self.atoms[-1]

    @property
    def variation(self) -> float:
        """Standard deviation over mean."""
        return float(max(self.squared / self.mean**2 - 1.0, 0.0) ** 0.5)

    def drawn(self, rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Whole lengths of so many requests, in no order."""
        found = generator.choice(np.asarray(self.atoms), rows)
        whole: NDArray[np.int64] = np.maximum(np.rint(found), 1).astype(np.int64)
        return whole


@dataclass(frozen=True)
class Job:
    """`requests` are those that an engine will have to answer: what is left of the rows when duplicates are gone."""

    requests: int
    prompt_tokens: TokenCounts
    output_tokens: TokenCounts
    shared_prefix: float = 0.0  # share of the prompts' tokens that an earlier prompt has left in the prefix cache
    prompt_times_output: float | None = None  # mean of the product by request; None: long ones go with no long ones
    acceptance: float | None = None  # of each guessed token; None: nobody has measured it

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError("a job has at least one request")
        if not 0 <= self.shared_prefix < 1:
            raise ValueError("shared_prefix is a share below 1")
        if self.acceptance is not None and not 0 <= self.acceptance < 1:
            raise ValueError("acceptance is a share below 1")

    @cached_property
    def lengths(self) -> Lengths:
        prompt, output = self.prompt_tokens.mean, self.output_tokens.mean
        product = prompt * output if self.prompt_times_output is None else self.prompt_times_output
        return Lengths(prompt, output, self.output_tokens.squared, product, self.shared_prefix * prompt)

    @property
    def longest(self) -> float:
        """Tokens that one sequence may come to hold."""
        return self.prompt_tokens.longest + self.output_tokens.longest

    @property
    def tokens_per_request(self) -> float:
        return self.prompt_tokens.mean + self.output_tokens.mean

    def accepting(self, acceptance: float) -> "Job":
        return replace(self, acceptance=acceptance)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants of the plan, and lets it choose from."""

    deadline_s: float = float("inf")  # from now until the last answer
    certainty: float = 0.95  # least probability of being done by then
    spot: bool = False  # machines that can be taken away may be used
    on_demand: bool = True
    weights: tuple[str, ...] = ("bf16",)  # precisions that are good enough
    kv_dtypes: tuple[str, ...] = ("auto",)
    most_machines: int = 32

    def __post_init__(self) -> None:
        if not (self.deadline_s > 0 and 0 < self.certainty < 1 and self.weights and self.kv_dtypes):
            raise ValueError("a deadline in the future, a certainty below 1, and at least one precision of each kind")
        if not (self.spot or self.on_demand):
            raise ValueError("machines on demand, spot machines, or both")
