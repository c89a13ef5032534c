"""Questions answered together: the physics of each load, over arrays of plans, for given constants."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.calibration import constants_of
from optimizer.planner.engines import Defaults
from optimizer.planner.memory import Memory, memory_of
from optimizer.planner.question import Plan, Question
from optimizer.planner.speculation import ACCEPTANCE, seconds_per_token
from optimizer.planner.steady_state import (
    Cycle,
    Lengths,
    Scheduling,
    cycle,
    cycle_seconds,
    job_seconds,
    room,
    wave_seconds,
)
from optimizer.planner.step import StepCost, stack, step_cost

Numbers = NDArray[np.float64]

ARRIVAL_ROUNDS = 30
# A finite closed loop of ten requests for each sequence: the first wave comes at once, the last one drains.
FIRST_WAVE = 0.1
P99_OVER_MEAN = 1.6
MEMORY_QUANTITIES = ("kv_blocks", "kv_tokens", "kv_gib")


@cache
def memory_for(plan: Plan, defaults: Defaults) -> Memory:
    return memory_of(
        plan.shape,
        plan.gpu,
        plan.split,
        plan.weight_dtype,
        plan.kv_dtype,
        utilization=defaults.utilization,
        of_free=defaults.of_free,
        max_num_batched_tokens=defaults.max_num_batched_tokens,
        max_num_seqs=defaults.max_num_seqs,
    )


@cache
def cost_of(plan: Plan) -> StepCost:
    return step_cost(plan.shape, plan.gpu, plan.split, plan.weight_dtype, plan.kv_dtype)


@dataclass(slots=True)
class Asked:
    """Questions made ready once, to be answered for many constants."""

    questions: Sequence[Question]
    memory: list[Memory]
    costs: StepCost
    lengths: Lengths
    scheduling: Scheduling

    @classmethod
    def of(cls, questions: Sequence[Question]) -> "Asked":
        memory = [memory_for(question.plan, question.defaults) for question in questions]
        places: dict[Plan, int] = {}
        of_plan = [places.setdefault(question.plan, len(places)) for question in questions]
        column = _column(questions)
        lanes = column(lambda q: q.plan.split.tensor if q.plan.split.experts_whole else 1)
        offered = column(lambda q: min(q.concurrency, q.defaults.max_num_seqs))
        lengths = Lengths(
            column(lambda q: q.lengths.input),
            column(lambda q: q.lengths.output),
            column(lambda q: q.lengths.output_squared),
            column(lambda q: q.lengths.input_output),
        )
        scheduling = Scheduling(
            offered * np.where([q.load == "offline" for q in questions], lanes, 1.0),
            column(lambda q: q.defaults.max_num_batched_tokens) * lanes,
            np.array([one.tokens_held(q.lengths.held) for one, q in zip(memory, questions, strict=True)]) * lanes,
            column(lambda q: q.defaults.mixed),
            column(lambda q: q.defaults.reserves_output),
        )
        return cls(questions, memory, stack([cost_of(plan) for plan in places]).taken(of_plan), lengths, scheduling)

    def values(self, logs: Numbers) -> Numbers:
        """What each question asks for, in its row's unit, given logarithms of constants (questions, constants)."""
        cost = self.costs.calibrated(constants_of(logs))
        column = _column(self.questions)
        concurrency, requests = column(lambda q: q.concurrency), column(lambda q: q.requests)
        replicas = column(lambda q: q.replicas)
        lengths, scheduling = self.lengths, self.scheduling
        requests = np.where(np.isfinite(requests), requests, 1e9)
        each = np.maximum(requests / replicas, 1.0)
        loads = np.array([q.load for q in self.questions])
        steady = cycle(cost, lengths, scheduling)
        open_rows = loads == "open"
        taken_in = np.asarray(cost.constants.request_ms) * 1e-3
        seconds, first = np.asarray(steady.seconds), np.asarray(steady.first_token_s)
        if open_rows.any():
            arriving = self._arriving(cost)
            seconds, first = np.where(open_rows, arriving[0], seconds), np.where(open_rows, arriving[1], first)
        closed = self._closed(cost, steady, concurrency)
        job = job_seconds(cost, lengths, scheduling, each)
        job = self._speculated(cost, job)
        output = lengths.output
        first_token = np.where(loads == "closed", closed[0], first) + taken_in
        token = np.where(loads == "closed", closed[1], (seconds - first) / np.maximum(output - 1, 1.0))
        answers = {
            "output_tokens_per_s": replicas * each * output / job,
            "total_tokens_per_s": replicas * each * (output + lengths.input) / job,
            "requests_per_s": replicas * each / job,
            "makespan_s": job,
            "first_token_s": first_token,
            "token_s": token,
            "request_s": first_token + token * (output - 1),
            "request_p99_s": P99_OVER_MEAN * (first_token + token * (output - 1)),
            "closed_rate": concurrency * output / (first_token + token * (output - 1)),
            "kv_blocks": np.array([one.blocks() for one in self.memory], dtype=np.float64),
            "kv_tokens": np.array([one.kv_tokens() for one in self.memory], dtype=np.float64),
            "kv_gib": np.array([one.cache for one in self.memory]),
        }
        chosen = [answers[question.wants][place] for place, question in enumerate(self.questions)]
        return np.array(chosen) * column(lambda q: q.scale)

    def saturated(self) -> Numbers:
        """Sequences offered over those that the cache has room for."""
        column = _column(self.questions)
        offered = np.minimum(column(lambda q: min(q.concurrency, 1e9)), self.scheduling.sequences)
        return np.asarray(offered / np.maximum(room(self.lengths, self.scheduling), 1e-9))

    def _closed(self, cost: StepCost, steady: Cycle, concurrency: Numbers) -> tuple[Numbers, Numbers]:
        """(time to first token, time of each other token)"""
        concurrency = np.where(np.isfinite(concurrency), concurrency, 1.0)
        wave = wave_seconds(cost, self.lengths, self.scheduling, np.asarray(steady.sequences))
        decode = steady.decode_step_s * np.maximum(self.lengths.output - 1, 0.0)
        prefill = np.maximum(np.asarray(wave) - decode, 0.0)
        waiting = np.maximum(concurrency - steady.sequences, 0.0) / steady.sequences * steady.seconds
        first = (1 - FIRST_WAVE) * steady.first_token_s + FIRST_WAVE * 0.6 * prefill + waiting
        token = (steady.seconds - steady.first_token_s) / np.maximum(self.lengths.output - 1, 1.0)
        return np.asarray(first), np.asarray(token)

    def _arriving(self, cost: StepCost) -> tuple[Numbers, Numbers]:
        """(time in the system, time to first token) where requests come at given rates: sequences = rate * time."""
        stages = max(len(q.rates) for q in self.questions)
        most = np.maximum(np.minimum(self.scheduling.sequences, room(self.lengths, self.scheduling)), 1.0)
        total = np.zeros(len(self.questions))
        waiting, weight = total.copy(), total.copy()
        for stage in range(stages):
            rate = np.array([q.rates[stage] if stage < len(q.rates) else 0.0 for q in self.questions])
            running = np.ones(len(self.questions))
            for _ in range(ARRIVAL_ROUNDS):
                seconds, _, first = cycle_seconds(cost, self.lengths, self.scheduling, running)
                wanted = np.clip(rate * np.asarray(seconds), 0.5, most)
                running = np.sqrt(running * wanted)
            total += rate * np.asarray(seconds)
            waiting += rate * np.asarray(first)
            weight += rate
        return total / np.maximum(weight, 1e-9), waiting / np.maximum(weight, 1e-9)

    def _speculated(self, cost: StepCost, job: Numbers) -> Numbers:
        """Jobs of plans that guess take as much shorter or longer as their decode steps do."""
        times = np.asarray(job, dtype=np.float64).copy()
        for place, question in enumerate(self.questions):
            if not question.guessed or question.draft is None:
                continue
            constants = type(cost.constants)(
                **{field.name: float(getattr(cost.constants, field.name)[place]) for field in fields(cost.constants)}
            )
            target = cost_of(question.plan).calibrated(constants)
            draft = step_cost(question.draft, question.plan.gpu).calibrated(constants)
            batch = min(question.concurrency, float(self.scheduling.sequences[place]))
            context = batch * float(np.asarray(self.lengths.held)[place])
            plain = float(target.seconds(0.0, 0.0, batch, context))
            guessing = float(seconds_per_token(target, draft, batch, context, question.guessed, ACCEPTANCE))
            times[place] += (guessing - plain) * float(np.asarray(self.lengths.output)[place])
        return times


def _column(questions: Sequence[Question]):  # type: ignore[no-untyped-def]
    return lambda pick: np.array([pick(question) for question in questions], dtype=np.float64)
