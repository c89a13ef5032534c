"""Why a plan is as it is: each of its choices turned the other way, priced again, and told in a sentence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.calibration import Calibration
from optimizer.planner.closed_form import ClosedForm
from optimizer.planner.found import Lever, Priced
from optimizer.planner.job import ACCEPTANCE_ASSUMED, Job, Wish
from optimizer.planner.layouts import BATCHED_TOKENS, PIPELINE, SEQUENCES, TENSOR, Engine, engines_from, reason_against
from optimizer.planner.offers import cheapest
from optimizer.planner.pricing import Desk, Plans, machine_counts
from optimizer.planner.step import Split

WEIGHTS = ("bf16", "fp8", "w8a8", "w4a16", "nvfp4")  # asked about, whether or not they are good enough
KV_DTYPES = ("auto", "fp8")
GUESSED = 3  # that are asked about, where none was priced
ALIKE = 0.005  # costs that differ by less are told as equal


@dataclass(frozen=True, slots=True)
class Turn:
    """The plan with one choice turned."""

    label: str  # "fp8 weights"
    engine: Engine
    offer: PricedMachine
    obstacle: str = ""  # why it may not be taken, whatever it costs


@dataclass(frozen=True, slots=True)
class Outcome:
    turn: Turn
    ratio: float | None  # its expected cost over the plan's; None: it cannot be
    why_not: str = ""


def levers_of(
    desk: Desk, plans: Plans, place: int, chosen: Priced, rented: Iterable[PricedMachine], calibration: Calibration
) -> tuple[Lever, ...]:
    """`chosen` stands at `place` of `plans`. Ratios are of expected costs by the steady state, with as many machines as
    the deadline then needs."""
    engine = desk.speeds.engines.one(int(plans.engine[place]))
    offer = desk.offers[int(plans.offer[place])]
    bench = _Bench(desk, calibration, float(plans.usd[place]))
    weights = engine.layout.weights
    kv_dtype = engine.layout.kv_dtype
    split = engine.layout.split
    running = chosen.prediction.running_sequences
    guesses = 0 if engine.guessed else GUESSED
    budget = max(engine.max_num_batched_tokens, engine.max_num_seqs * (guesses + 1))
    speculation = _turned(engine, guessed=guesses, max_num_batched_tokens=budget)
    guess = f"at {running:.0f} running sequences"
    if desk.speeds.job.acceptance is None:
        guess += f", if {ACCEPTANCE_ASSUMED:.0%} of guesses were accepted,"
    return (
        _quantization(weights, bench.all(_weights(engine, offer, desk.wish))),
        _lever(
            "KV cache", f"{_kv(kv_dtype)} KV cache", kv_dtype != "auto", bench.all(_kv_turns(engine, offer, desk.wish))
        ),
        _lever(
            "tensor parallelism", f"TP {split.tensor}", split.tensor > 1, bench.all(_tensor(engine, offer, desk.offers))
        ),
        _lever(
            "pipeline parallelism",
            f"PP {split.pipeline}",
            split.pipeline > 1,
            bench.all(_pipeline(engine, offer, desk.offers)),
        ),
        _speculation(engine, bench.one(Turn("", speculation, offer)), guess),
        _lever(
            "max_num_seqs",
            f"{engine.max_num_seqs} sequences at once ({running:.0f} run on average)",
            True,
            bench.all(_sequences(engine, offer)),
            every=True,
        ),
        _lever(
            "token budget",
            f"{engine.max_num_batched_tokens} tokens a step",
            True,
            bench.all(_budgets(engine, offer)),
            every=True,
        ),
        _spot(offer, bench.all(_spot_turns(engine, offer, desk.wish, tuple(rented)))),
        _hardware(offer, desk, plans, place),
        _replicas(desk, plans, place, chosen),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """Prices turns against the plan."""

    desk: Desk
    calibration: Calibration
    usd: float

    def all(self, turns: Iterable[Turn]) -> list[Outcome]:
        return [self.one(turn) for turn in turns]

    def one(self, turn: Turn) -> Outcome:
        desk = self.desk
        job: Job = desk.speeds.job
        shape, layout = desk.shape, turn.engine.layout
        if (reason := reason_against(shape, layout)) is not None:
            return Outcome(turn, None, reason)
        if layout.split.ranks > turn.offer.gpus:
            return Outcome(turn, None, f"the machine has {_gpus(turn.offer.gpus)}")
        if turn.engine.max_num_batched_tokens < turn.engine.max_num_seqs * (turn.engine.guessed + 1):
            return Outcome(turn, None, "the token budget is below the number of sequences")
        engines = engines_from(shape, job, [turn.engine])
        if not engines.kv_tokens[0]:
            return Outcome(turn, None, "does not fit in memory")
        wish: Wish = replace(desk.wish, spot=True, on_demand=True)
        speeds = ClosedForm.of(shape, job, engines, self.calibration)
        table = priced_alone(Desk(shape, speeds, [turn.offer], wish, desk.overheads))
        sure = table.usd[table.on_time >= wish.certainty]
        if not len(sure):
            return Outcome(turn, None, f"is too slow for the deadline on {wish.most_machines} machines")
        return Outcome(turn, float(sure.min()) / self.usd)


def priced_alone(desk: Desk) -> Plans:
    """One engine on one offer, in every number of machines."""
    counts = np.array(machine_counts(desk.wish.most_machines), np.int64)
    nothing = np.zeros(len(counts), np.int64)
    return desk.price(nothing, nothing, counts)


def _turned(engine: Engine, **changes: object) -> Engine:
    of_layout = {name: value for name, value in changes.items() if name in {"split", "weights", "kv_dtype"}}
    rest = {name: value for name, value in changes.items() if name not in of_layout}
    return replace(engine, layout=replace(engine.layout, **of_layout), **rest)  # type: ignore[arg-type]


def _weights(engine: Engine, offer: PricedMachine, wish: Wish) -> Iterator[Turn]:
    for weights in dict.fromkeys([*WEIGHTS, *wish.weights]):
        if weights != engine.layout.weights:
            allowed = "" if weights in wish.weights else "is not among the precisions allowed"
            yield Turn(f"{weights} weights", _turned(engine, weights=weights), offer, allowed)


def _kv_turns(engine: Engine, offer: PricedMachine, wish: Wish) -> Iterator[Turn]:
    for kv_dtype in KV_DTYPES:
        if kv_dtype != engine.layout.kv_dtype:
            allowed = "" if kv_dtype in wish.kv_dtypes else "is not among the precisions allowed"
            yield Turn(f"a {_kv(kv_dtype)} one", _turned(engine, kv_dtype=kv_dtype), offer, allowed)


def _tensor(engine: Engine, offer: PricedMachine, offers: Sequence[PricedMachine]) -> Iterator[Turn]:
    split = engine.layout.split
    for tensor in _beside(TENSOR, split.tensor):
        yield _with_split(engine, f"TP {tensor}", Split(tensor, split.pipeline), offer, offers)


def _pipeline(engine: Engine, offer: PricedMachine, offers: Sequence[PricedMachine]) -> Iterator[Turn]:
    split = engine.layout.split
    for pipeline in _beside(PIPELINE, split.pipeline):
        yield _with_split(engine, f"PP {pipeline}", Split(split.tensor, pipeline), offer, offers)


def _with_split(
    engine: Engine, label: str, split: Split, offer: PricedMachine, offers: Sequence[PricedMachine]
) -> Turn:
    """On a machine of the same GPUs that has enough of them, the cheapest for each, if the plan's has not."""
    if split.ranks <= offer.gpus:
        return Turn(label, _turned(engine, split=split), offer)
    roomy = [one for one in offers if one.gpu == offer.gpu and one.gpus >= split.ranks]
    other = min(roomy, key=lambda one: one.usd_per_hour / one.gpus, default=offer)
    return Turn(f"{label} on {other.hardware}", _turned(engine, split=split), other)


def _sequences(engine: Engine, offer: PricedMachine) -> Iterator[Turn]:
    for sequences in _beside(SEQUENCES, engine.max_num_seqs):
        yield Turn(f"{sequences}", _turned(engine, max_num_seqs=sequences), offer)


def _budgets(engine: Engine, offer: PricedMachine) -> Iterator[Turn]:
    for budget in _beside(BATCHED_TOKENS, engine.max_num_batched_tokens):
        yield Turn(f"{budget}", _turned(engine, max_num_batched_tokens=budget), offer)


def _spot_turns(engine: Engine, offer: PricedMachine, wish: Wish, rented: Sequence[PricedMachine]) -> Iterator[Turn]:
    wanted = replace(wish, spot=not offer.spot, on_demand=offer.spot)
    for other in cheapest(rented, wanted):
        if (other.gpu, other.gpus) == (offer.gpu, offer.gpus):
            allowed = wish.spot if other.spot else wish.on_demand
            kind = "spot" if other.spot else "on demand"
            yield Turn(f"{kind} ({other.provider})", engine, other, "" if allowed else "is not allowed")


def _beside(choices: Sequence[int], chosen: int) -> list[int]:
    """The next smaller one and the next larger one."""
    smaller, larger = [c for c in choices if c < chosen], [c for c in choices if c > chosen]
    return [*smaller[-1:], *larger[:1]]


def _lever(name: str, state: str, taken: bool, outcomes: Sequence[Outcome], every: bool = False) -> Lever:
    """The cheapest other choice speaks for all, unless `every` one is to be told."""
    possible = sorted((one for one in outcomes if one.ratio is not None), key=lambda one: one.ratio or 0.0)
    told = possible if every else possible[:1]
    if not told:
        reasons = "; ".join(f"{one.turn.label} cannot be: {one.why_not}" for one in outcomes[:2])
        return Lever(name, taken, f"{state}: {reasons or 'there is no other choice'}", None)
    return Lever(name, taken, f"{state}: {', '.join(_said(one) for one in told)}", told[0].ratio)


def _quantization(weights: str, outcomes: Sequence[Outcome]) -> Lever:
    """16 bits are what quantization is measured against, so that they are told of if it was chosen."""
    taken = weights != "bf16"
    full = [one for one in outcomes if one.turn.engine.layout.weights == "bf16"]
    lever = _lever("quantization", f"{weights} weights", taken, full if taken else outcomes)
    better = [one for one in outcomes if one.ratio is not None and one.ratio < 1 - ALIKE and not one.turn.obstacle]
    if taken and better:
        best = min(better, key=lambda one: one.ratio or 0.0)
        return replace(lever, reason=f"{lever.reason}, {_said(best)}")
    return lever


def _said(outcome: Outcome) -> str:
    assert outcome.ratio is not None
    obstacle = f", but {outcome.turn.obstacle}" if outcome.turn.obstacle else ""
    return f"{outcome.turn.label} {_would_cost(outcome.ratio)}{obstacle}"


def _would_cost(ratio: float) -> str:
    return "would cost the same" if abs(ratio - 1) < ALIKE else f"would cost {ratio:.2f}x"


def _speculation(engine: Engine, outcome: Outcome, guess: str) -> Lever:
    state = f"speculation of {engine.guessed} tokens" if engine.guessed else "speculation off"
    other = "without it the job" if engine.guessed else "it"
    if outcome.ratio is None:
        return Lever("speculation", bool(engine.guessed), f"{state}: {other} cannot be: {outcome.why_not}", None)
    said = f"{state}: {guess} {other} {_would_cost(outcome.ratio)}"
    return Lever("speculation", bool(engine.guessed), said, outcome.ratio)


def _spot(offer: PricedMachine, outcomes: Sequence[Outcome]) -> Lever:
    state = "spot" if offer.spot else "on demand"
    if not outcomes:
        other = "on demand" if offer.spot else "spot"
        return Lever("spot", offer.spot, f"{state}: no {other} price of such a machine is known", None)
    return _lever("spot", state, offer.spot, outcomes)


def _hardware(offer: PricedMachine, desk: Desk, plans: Plans, place: int) -> Lever:
    other = np.array([one.gpu != offer.gpu for one in desk.offers])[plans.offer]
    sure = other & (plans.on_time >= desk.wish.certainty)
    if not sure.any():
        return Lever("hardware", True, f"{offer.gpu}: on no other GPU of the catalogue would it be done in time", None)
    best = int(np.flatnonzero(sure)[np.argmin(plans.usd[sure])])
    machine, ratio = desk.offers[int(plans.offer[best])], float(plans.usd[best] / plans.usd[place])
    return Lever("hardware", True, f"{offer.gpu}: the next best, {machine.gpu}, {_would_cost(ratio)}", ratio)


def _replicas(desk: Desk, plans: Plans, place: int, chosen: Priced) -> Lever:
    machines = int(plans.machines[place])
    engine, offer = plans.engine[place : place + 1], plans.offer[place : place + 1]
    more = desk.price(engine, offer, np.array([machines + 1]))
    replicas = chosen.plan.replicas
    state = f"{replicas} engine{'s' * (replicas > 1)} on {machines} machine{'s' * (machines > 1)}"
    said, ratio = [], None
    if machines > 1:
        fewer = desk.price(engine, offer, np.array([machines - 1]))
        ratio = float(fewer.usd[0] / plans.usd[place])
        late = ""
        if np.isfinite(desk.wish.deadline_s):
            late = f" and be done in time with probability {float(fewer.on_time[0]):.2f}"
        said.append(f"{machines - 1} {_would_cost(ratio)}{late}")
    if len(more):
        ratio = float(more.usd[0] / plans.usd[place]) if ratio is None else ratio
        sooner = float(more.finish_s[0] / plans.finish_s[place])
        said.append(
            f"{machines + 1} {_would_cost(float(more.usd[0] / plans.usd[place]))} and take {sooner:.2f}x the time"
        )
    return Lever("replicas", machines > 1, f"{state}: {', '.join(said) or 'there is work for no more'}", ratio)


def _kv(kv_dtype: str) -> str:
    return "16-bit" if kv_dtype == "auto" else kv_dtype.upper()


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count > 1)}"
