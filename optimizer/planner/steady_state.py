"""A batch that is kept full: tokens held, sequences that run, and the time in which each of them is replaced.

A cycle is the time in which as many requests end as run at once. It has one decode step for each output token, and its
prompts' tokens either share some of those steps (chunked prefill, Sarathi-Serve, arXiv 2403.02310) or stop them.
Little: sequences = rate * time in the system. All quantities may be arrays over plans.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.step import StepCost

Numbers = NDArray[np.float64]
Amount = float | Numbers

PACKED = 0.97  # of the cache that running sequences fill on average, where it is what limits them


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of a job's requests, tokens: means, and means of products: how long outputs and inputs go together."""

    input: Amount
    output: Amount
    output_squared: Amount  # E[o^2]
    input_output: Amount  # E[i * o]
    cached: Amount = 0.0  # of the input, on average, that is found computed

    @property
    def held(self) -> Amount:
        """Tokens of an average running sequence: (E[i o] + E[o^2] / 2) / E[o], long outputs run longer (renewals)."""
        return (self.input_output + self.output_squared / 2) / np.maximum(self.output, 1e-9)


def fixed(input_tokens: Amount, output_tokens: Amount) -> Lengths:
    return Lengths(input_tokens, output_tokens, output_tokens * output_tokens, input_tokens * output_tokens)


def spread(input_tokens: Amount, output_tokens: Amount, variation: Amount) -> Lengths:
    """Independent lengths whose outputs have this coefficient of variation (deviation over mean)."""
    squared = output_tokens * output_tokens * (1 + variation * variation)
    return Lengths(input_tokens, output_tokens, squared, input_tokens * output_tokens)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What bounds a batch."""

    sequences: Amount  # at once: the engine's limit or what is offered to it
    batched_tokens: Amount  # in a step
    kv_tokens: Amount
    mixed: Amount = 1.0  # 1: prompts share steps with decoding; 0: they stop it
    reserves_output: Amount = 0.0  # 1: a sequence starts when there is room for all of its output (TensorRT-LLM)
    block_tokens: Amount = 16.0


@dataclass(frozen=True, slots=True)
class Cycle:
    """Of a full batch."""

    sequences: Amount
    seconds: Amount
    decode_step_s: Amount
    first_token_s: Amount  # from when a sequence may start
    saturated: Amount  # offered or allowed sequences over those that the cache has room for

    def output_tokens_per_s(self, lengths: Lengths) -> Amount:
        return self.sequences * lengths.output / self.seconds


def room(lengths: Lengths, scheduling: Scheduling) -> Amount:
    """Sequences that the cache has room for."""
    held = lengths.held + scheduling.block_tokens / 2
    whole = lengths.input + lengths.output + scheduling.block_tokens / 2
    each = np.where(np.asarray(scheduling.reserves_output) > 0, whole, held)
    alone = scheduling.kv_tokens / np.maximum(whole, 1.0)
    fill = np.where(np.asarray(scheduling.reserves_output) > 0, 1.0, PACKED)
    return np.where(alone < 1.0, 0.0, np.maximum(1.0, fill * scheduling.kv_tokens / each))[()]


def cycle(cost: StepCost, lengths: Lengths, scheduling: Scheduling) -> Cycle:
    holds = room(lengths, scheduling)
    running = np.maximum(np.minimum(scheduling.sequences, holds), 1e-9)
    seconds, decode, first = cycle_seconds(cost, lengths, scheduling, running)
    return Cycle(running, seconds, decode, first, scheduling.sequences / np.maximum(holds, 1e-9))


def cycle_seconds(
    cost: StepCost, lengths: Lengths, scheduling: Scheduling, running: Amount
) -> tuple[Amount, Amount, Amount]:
    """(cycle, one decode step, first token) with this many sequences running."""
    computed = np.maximum(lengths.input - lengths.cached, 1.0)
    steps = np.maximum(lengths.output - 1.0, 1.0)
    context = running * lengths.held
    decode = cost.seconds(0.0, 0.0, running, context)
    prompts = running * computed  # tokens of prompts in a cycle
    mixed = np.asarray(scheduling.mixed) > 0
    # A prompt comes when a sequence ends, and waits for no other; where prompts come faster than steps, steps share.
    budget = np.maximum(scheduling.batched_tokens - np.where(mixed, running, 0.0), scheduling.batched_tokens / 16)
    events = prompts / np.minimum(computed, budget)
    fewest = prompts / budget
    shared = np.clip(steps, fewest, events)
    chunk = prompts / shared
    attended = prompts * (lengths.cached + computed / 2) / shared
    # Where there are more steps with prompts than output tokens, only some of the sequences decode in each.
    decoding = np.minimum(1.0, steps / shared)
    together = cost.seconds(chunk, attended, running * decoding, context * decoding)
    apart = cost.seconds(chunk, attended, 0.0, 0.0)
    alone = np.maximum(steps - shared, 0.0)
    chunked = shared * together + alone * decode
    stopped = shared * apart + steps * decode
    seconds = np.where(mixed, chunked, stopped)[()]
    own = np.maximum(1.0, computed / np.maximum(np.minimum(chunk, budget), 1.0))
    wait = 0.5 * np.where(shared >= steps, together, decode)
    return seconds, decode, (wait + own * np.where(mixed, together, apart))[()]


def wave_seconds(cost: StepCost, lengths: Lengths, scheduling: Scheduling, sequences: Amount) -> Amount:
    """Of sequences that start together and end together: their prompts first, then a step for each output token."""
    computed = np.maximum(lengths.input - lengths.cached, 1.0)
    steps = np.maximum(lengths.output - 1.0, 0.0)
    prompts = sequences * computed
    filled = np.maximum(prompts / scheduling.batched_tokens, 1.0)
    chunk = prompts / filled
    attended = prompts * (lengths.cached + computed / 2) / filled
    prefill = filled * cost.seconds(chunk, attended, np.maximum(sequences * (1 - 1 / filled), 0.0) / 2, 0.0)
    decode = cost.seconds(0.0, 0.0, sequences, sequences * (lengths.input + lengths.output / 2))
    return prefill + steps * decode


def job_seconds(cost: StepCost, lengths: Lengths, scheduling: Scheduling, requests: Amount) -> Amount:
    """Of this many requests, all there at once: full cycles, then a tail in which the batch drains evenly.

    Requests that all run at once are one wave.
    """
    full = cycle(cost, lengths, scheduling)
    drained = cost.seconds(0.0, 0.0, full.sequences / 2, full.sequences / 2 * lengths.held)
    tail = np.maximum(lengths.output - 1.0, 1.0) * drained
    cycles = np.maximum(requests / full.sequences - 0.5, 0.5)
    many = cycles * full.seconds + tail
    one = wave_seconds(cost, lengths, scheduling, np.minimum(requests, full.sequences))
    return np.where(requests <= full.sequences, one, np.maximum(many, one))[()]


def uneven_tail_seconds(
    cost: StepCost, lengths: Lengths, full: Cycle, requests: Amount, output_tokens: Numbers
) -> Numbers:
    """What unequal outputs add to the tail of equal ones that `job_seconds` has.

    `output_tokens`: (n,), ascending and equally likely; their mean stands for `lengths.output`, which may count steps
    that yield several of them. When the last request starts, those that run have E[o^2] / (2 E[o]) steps left on
    average (renewals), and the longest of them keeps the engine up while ever fewer share its steps.
    """
    batch = np.minimum(requests, full.sequences)
    steps = np.asarray(lengths.output)
    count, mean = len(output_tokens), output_tokens.mean()
    rank = np.clip(np.floor(count * batch / (batch + 1.0)), 0, count - 1).astype(np.int64)
    longest = np.maximum(output_tokens[rank] * steps / mean, steps)
    variance = max(np.square(output_tokens).mean() / mean**2 - 1.0, 0.0)
    wave = requests <= full.sequences
    left = np.where(wave, 1.0, (1.0 + variance) / 2) * steps
    evenly = np.where(wave, 1.0, 0.5) * steps
    held = np.asarray(lengths.held)
    uneven = np.minimum(batch * left / longest, batch)
    even = batch * evenly / steps
    longer = longest * cost.seconds(0.0, 0.0, uneven, uneven * held)
    shorter = steps * cost.seconds(0.0, 0.0, even, even * held)
    sooner = np.where(wave, 0.0, variance / 2 * np.asarray(full.seconds))
    return np.asarray(np.maximum(longer - shorter - sooner, 0.0))
