"""Questions answered together: the physics of each load, over arrays of plans, for given constants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.calibration import constants_of
from optimizer.planner.deployment import Deployment, cost_of, memory_for
from optimizer.planner.layouts import BLOCK_TOKENS
from optimizer.planner.memory import Memory
from optimizer.planner.nearby import Points, kin_of, points_of
from optimizer.planner.question import Question
from optimizer.planner.speculation import ACCEPTANCE, STRANGER_ACCEPTANCE, seconds_per_token
from optimizer.planner.steady_state import Lengths, Scheduling, cycle, cycle_seconds, job_seconds, room, wave_seconds
from optimizer.planner.step import Constants, StepCost, stack, step_cost

Numbers = NDArray[np.float64]

ARRIVAL_ROUNDS = 12  # in which what runs and how long it takes come to agree
# A finite closed loop of ten requests for each sequence: the first wave comes at once.
FIRST_WAVE = 0.1
MEAN_OF_WAVE = 0.6  # of the time that a wave's prompts take, when the average one of them is answered
P99_OVER_MEAN = 1.12  # of a request's time: median of the 49 loads of BLIS that tell both, 1.04 to 1.46
UNBOUNDED = 1e9  # requests
MEMORY_QUANTITIES = ("kv_blocks", "kv_tokens", "kv_gib")


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions made ready once, to be answered for many constants."""

    memory: Sequence[Memory]
    saturation: Numbers  # sequences offered over those that the cache has room for
    points: Points
    parts: Sequence["_Part"]

    @classmethod
    def of(cls, questions: Sequence[Question]) -> "Asked":
        memory = [memory_for(question.plan, question.defaults) for question in questions]
        saturation = np.zeros(len(questions))
        parts = []
        for load in sorted({question.load for question in questions}):
            places = np.flatnonzero([question.load == load for question in questions])
            part = _Part.of(load, places, [questions[place] for place in places], [memory[place] for place in places])
            saturation[places] = part.saturation()
            parts.append(part)
        return cls(memory, saturation, _points(questions, saturation), parts)

    def values(self, logs: Numbers, slower: Numbers | None = None) -> Numbers:
        """What each question asks for, in its row's unit, given logarithms of constants (questions, constants), and of
        how much slower than by those each is, where that is told."""
        found = np.zeros(len(self.memory))
        factors = np.ones(len(found)) if slower is None else np.exp(slower)
        for part in self.parts:
            found[part.places] = part.values(constants_of(logs[part.places]), factors[part.places])
        return found


@dataclass(frozen=True, slots=True)
class _Part:
    """The questions of one kind of load."""

    load: str
    places: NDArray[np.int64]
    questions: Sequence[Question]
    memory: Sequence[Memory]
    costs: StepCost
    lengths: Lengths
    scheduling: Scheduling
    replicas: Numbers
    concurrency: Numbers
    requests: Numbers
    scale: Numbers
    guessing: Sequence[int]
    wanting: Mapping[str, NDArray[np.int64]]  # places in this part, by what they ask for

    @classmethod
    def of(
        cls, load: str, places: NDArray[np.int64], questions: Sequence[Question], memory: Sequence[Memory]
    ) -> "_Part":
        kinds: dict[Deployment, int] = {}
        of_kind = [kinds.setdefault(question.plan, len(kinds)) for question in questions]
        column = _columns(questions)
        lanes = column(lambda q: q.plan.split.tensor if q.plan.split.experts_whole else 1)
        lengths = Lengths(
            column(lambda q: q.lengths.input),
            column(lambda q: q.lengths.output),
            column(lambda q: q.lengths.output_squared),
            column(lambda q: q.lengths.input_output),
        )
        # What was measured did run: one sequence fits, whatever the memory model says (`fits_memory` tells that).
        held = [
            np.maximum(one.tokens_held(q.lengths.held), q.lengths.input + q.lengths.output + 2 * BLOCK_TOKENS)
            for one, q in zip(memory, questions, strict=True)
        ]
        scheduling = Scheduling(
            column(lambda q: min(q.concurrency, q.defaults.max_num_seqs)) * (lanes if load == "offline" else 1.0),
            column(lambda q: q.defaults.max_num_batched_tokens * q.plan.split.pipeline) * lanes,
            np.array(held, dtype=np.float64) * lanes,
            column(lambda q: q.defaults.mixed),
            column(lambda q: q.defaults.reserves_output),
        )
        costs = stack([cost_of(plan) for plan in kinds]).taken(of_kind)
        wants = np.array([question.wants for question in questions])
        return cls(
            load,
            places,
            questions,
            memory,
            costs,
            lengths,
            scheduling,
            replicas=column(lambda q: q.replicas),
            concurrency=column(lambda q: min(q.concurrency, UNBOUNDED)),
            requests=column(lambda q: min(q.requests, UNBOUNDED)),
            scale=column(lambda q: q.scale),
            guessing=[place for place, question in enumerate(questions) if question.guessed],
            wanting={str(name): np.flatnonzero(wants == name) for name in np.unique(wants)},
        )

    def values(self, constants: Constants, slower: Numbers) -> Numbers:
        cost = replace(self.costs.calibrated(constants), slower=slower)
        output = np.asarray(self.lengths.output)
        if self.load in {"closed", "open"}:
            first, token = self._closed(cost) if self.load == "closed" else self._arriving(cost)
            first = first + np.asarray(constants.request_ms) * 1e-3
            seconds = first + token * (output - 1)
            requests_per_s = self.concurrency / seconds if self.load == "closed" else self._arrival_rates()
            job = self.requests / requests_per_s
        else:
            each = np.maximum(self.requests / self.replicas, 1.0)
            job = self._speculated(cost, np.asarray(job_seconds(cost, self.lengths, self.scheduling, each)))
            requests_per_s = self.replicas * each / job
            steady = cycle(cost, self.lengths, self.scheduling)
            first, seconds = np.asarray(steady.first_token_s), np.asarray(steady.seconds)
            token = (seconds - first) / np.maximum(output - 1, 1.0)
        answers = {
            "output_tokens_per_s": requests_per_s * output,
            "closed_rate": requests_per_s * output,
            "total_tokens_per_s": requests_per_s * (output + self.lengths.input),
            "requests_per_s": requests_per_s,
            "makespan_s": job,
            "first_token_s": first,
            "token_s": token,
            "request_s": seconds,
            "request_p99_s": P99_OVER_MEAN * seconds,
        }
        found = np.zeros(len(self.questions))
        for wants, places in self.wanting.items():
            found[places] = answers[wants][places] if wants in answers else self._of_memory(wants, places)
        return found * self.scale

    def _of_memory(self, wants: str, places: NDArray[np.int64]) -> Numbers:
        sizes = {"kv_blocks": Memory.blocks, "kv_tokens": Memory.kv_tokens}
        held = [self.memory[place] for place in places]
        return np.array([sizes[wants](one) if wants in sizes else one.cache for one in held], dtype=np.float64)

    def _arrival_rates(self) -> Numbers:
        return np.array([float(np.mean(question.rates)) for question in self.questions])

    def saturation(self) -> Numbers:
        offered = np.minimum(self.concurrency, self.scheduling.sequences)
        return np.asarray(offered / np.maximum(room(self.lengths, self.scheduling), 1e-9))

    def _closed(self, cost: StepCost) -> tuple[Numbers, Numbers]:
        """(time to first token, time of each other token) where each answer is followed by a new request."""
        steady = cycle(cost, self.lengths, self.scheduling)
        steps = np.maximum(np.asarray(self.lengths.output) - 1, 0.0)
        wave = wave_seconds(cost, self.lengths, self.scheduling, steady.sequences)
        prefill = np.maximum(np.asarray(wave) - steady.decode_step_s * steps, 0.0)
        waiting = np.maximum(self.concurrency - steady.sequences, 0.0) / steady.sequences * steady.seconds
        first = (1 - FIRST_WAVE) * steady.first_token_s + FIRST_WAVE * MEAN_OF_WAVE * prefill + waiting
        token = (steady.seconds - steady.first_token_s) / np.maximum(steps, 1.0)
        return np.asarray(first), np.asarray(token)

    def _arriving(self, cost: StepCost) -> tuple[Numbers, Numbers]:
        """The same where requests come at given rates: as many run as arrive while one is answered (Little)."""
        stages = max(len(question.rates) for question in self.questions)
        rates = [[*question.rates, *[0.0] * (stages - len(question.rates))] for question in self.questions]
        most = np.maximum(np.minimum(self.scheduling.sequences, room(self.lengths, self.scheduling)), 1.0)
        first, total = np.zeros(len(self.questions)), np.zeros(len(self.questions))
        for rate in np.array(rates).T:
            running = np.ones(len(self.questions))
            for _ in range(ARRIVAL_ROUNDS):
                seconds, _, wait = cycle_seconds(cost, self.lengths, self.scheduling, running)
                running = np.sqrt(running * np.clip(rate * np.asarray(seconds), 0.5, most))
            first += rate * np.asarray(wait)
            total += rate * np.asarray(seconds)
        weight = np.sum(rates, axis=1)
        token = (total - first) / weight / np.maximum(np.asarray(self.lengths.output) - 1, 1.0)
        return first / weight, token

    def _speculated(self, cost: StepCost, job: Numbers) -> Numbers:
        """Jobs of plans that guess take as much shorter or longer as their decode steps do."""
        times = job.copy()
        for place in self.guessing:
            question = self.questions[place]
            if question.draft is None:
                continue
            constants = Constants(
                **{field.name: float(getattr(cost.constants, field.name)[place]) for field in fields(Constants)}
            )
            target = cost_of(question.plan).calibrated(constants)
            draft = step_cost(question.draft, question.plan.gpu).calibrated(constants)
            batch = min(question.concurrency, question.defaults.max_num_seqs)
            context = batch * float(question.lengths.held)
            plain = float(target.seconds(0.0, 0.0, batch, context))
            related = question.draft.architecture == question.plan.shape.architecture
            accepted = ACCEPTANCE if related else STRANGER_ACCEPTANCE
            guessing = float(seconds_per_token(target, draft, batch, context, question.guessed, accepted))
            times[place] += (guessing - plain) * float(question.lengths.output) * np.asarray(cost.slower)[place]
        return times


def _points(questions: Sequence[Question], saturation: Numbers) -> Points:
    column = _columns(questions)
    return points_of(
        [kin_of(question.groups, question.plan.shape) for question in questions],
        [question.plan.shape for question in questions],
        [float(question.plan.split.ranks) for question in questions],
        column(lambda q: min(q.concurrency, q.defaults.max_num_seqs)) / np.maximum(saturation, 1.0),
        column(lambda q: q.lengths.input),
        column(lambda q: q.lengths.output),
    )


def _columns(questions: Sequence[Question]) -> Callable[[Callable[[Question], object]], Numbers]:
    return lambda pick: np.array([pick(question) for question in questions], dtype=np.float64)
