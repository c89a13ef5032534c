"""One lane, start to end: its pending representatives in planned order, an engine, and settlement as answers arrive."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import numpy as np

from flows.ahead import ahead_of, more_of
from flows.asking import Asking
from flows.candidates import levers
from flows.certify import certify, certify_lane, look_on, to_judge, tried
from flows.feeding import feed
from flows.learning import Ran, keep
from flows.looks import Looks
from flows.members import Members, Rows, answered_any, done_rows, pending_rows
from flows.noise import note_repeats, rows_to_repeat
from flows.open import Work
from flows.pace import Now, UnderWay
from flows.pilot import Pilot
from flows.quarantine import Quarantine
from flows.requests import kv_tokens_of
from flows.settlement import LEAST_WASTE_S, Settlement, close, waste
from flows.trials import PORTION_ROWS, Tried, Watch, end_cascade, keep_audit, keep_portion, untried
from flows.turn import turn
from optimizer.cost import usd_of_time
from serving.engines.open import open_engine
from serving.records import Completion, Engine, EngineDied, Failure, Lane, Overhead
from serving.store.meter import Meter

FRUITLESS_DEATHS = 8  # in a row, without a row settled in between: halving a window takes no more
REASON_CHARACTERS = 300


def lanes_to_run(work: Work) -> list[Lane]:
    """The lanes that still have rows to answer, in the job's order; the full one also where it has some to judge."""
    members = work.run.stage(work.run.collapsed).rows("members")
    work.progress.start(rows=members, done=len(done_rows(work)))
    return [lane for lane in work.job.lanes.values() if len(pending_rows(work, lane)) or _judges(work, lane)]


def answer_lane(work: Work, lane: Lane, pilot: Pilot | None = None, only: Rows | None = None) -> dict[str, Any]:
    """Answer what is pending in a lane, or `only` some of it. An engine that dies is started again, and the rows it may
    have died of are set aside; one that never gets anything done is given up."""
    quarantine = Quarantine()
    fruitless = 0
    while True:
        pending = pending_rows(work, lane)
        if only is not None:
            pending = np.intersect1d(pending, only)
        if not (len(pending) or _judges(work, lane)) or work.limits.stop() or _waits(work, lane):
            return {"lane": lane.name, "pending": len(pending)}
        try:
            complete = _run_engine(work, lane, pending, quarantine, pilot)
        except EngineDied as death:
            idle = np.array_equal(pending_rows(work, lane), pending) and not _waits(work, lane)
            fruitless = fruitless + 1 if idle else 0
            if fruitless > (FRUITLESS_DEATHS if death.suspects else 0):
                raise
            work.progress.say(f"{lane.name}: {death}; starting it again")
        else:
            if not complete and not work.limits.stop():
                raise EngineDied(f"{lane.name}: the engine ended without an answer for every row")


def _waits(work: Work, lane: Lane) -> bool:
    """True while a cheaper model cannot be audited, since the full one has not answered or judged what that takes."""
    if not _needs_certificate(work, lane) or Looks.of(work, lane.name).over:
        return False
    return len(to_judge(work)) > 0 or len(pending_rows(work, work.job.lanes["full"])) > 0


def _judges(work: Work, lane: Lane) -> bool:
    return lane.name == "full" and len(to_judge(work)) > 0


def _needs_certificate(work: Work, lane: Lane) -> bool:
    return lane.name in levers(work)


def _run_engine(work: Work, lane: Lane, pending: Rows, quarantine: Quarantine, pilot: Pilot | None) -> bool:
    """One engine from start to end; True if it answered all. Whatever happens to it, what it finished is settled."""
    work.progress.say(f"{lane.name}: starting {work.job.engine.kind} for {lane.model} ({len(pending)} requests)")
    kv_tokens = kv_tokens_of(work, pending)
    settlement = ran = opened = None
    forked = work.servers.used
    with turn(work), work.metered(lane.name, work.job.engine.replicas) as meter:
        try:
            opened = _opened(work, lane, meter, kv_tokens)
            with opened as engine:
                start_up_s = work.limits.lap()
                usd = usd_of_time(work.price, start_up_s)
                start_up = Overhead("start_up", lane.name, round(start_up_s, 6), usd, engine=meter.name)
                settlement = Settlement(work, lane, engine, meter, Members.of(work), [start_up])
                began = time.monotonic()
                try:
                    return _answer(work, pending, quarantine, settlement, pilot, start_up_s)
                finally:
                    ran = Ran(engine.evidence, start_up_s, forked, time.monotonic() - began, pending)
        finally:
            if settlement is not None:
                settlement.finish()
                if ran is not None:
                    keep(work, lane, ran)
            elif opened is not None:  # it never became ready
                lost_s = work.limits.lap()
                lines = [waste(work, meter.name, lane.name, lost_s, 0)] if lost_s > LEAST_WASTE_S else []
                close(work, meter.name, lane.name, lines)
            else:  # these settings cannot be run, and nothing was
                close(work, meter.name, lane.name, [])


def _opened(work: Work, lane: Lane, meter: Meter, kv_tokens: int | None) -> AbstractContextManager[Engine]:
    if work.job.cluster.ray is not None:
        from flows.cluster import open_replicas

        return open_replicas(work, lane, meter, kv_tokens)
    return open_engine(
        work.job.engine, lane, work.log_of(lane), work.asked_to_stop, meter, kv_tokens, not work.price.bills_time,
        work.job.tenant.name, work.adapters, work.servers,
    )  # fmt: skip


def _answer(
    work: Work, pending: Rows, quarantine: Quarantine, settlement: Settlement, pilot: Pilot | None, start_up_s: float
) -> bool:
    def now() -> Now:
        spent, engine = settlement.meter.read() - settlement.beside, settlement.engine
        under_way = [
            UnderWay(settlement.in_flight[row], tokens)
            for row, tokens in engine.under_way.items()
            if row in settlement.in_flight
        ]
        tokens = spent.prompt_tokens, spent.completion_tokens
        return Now(work.limits.running_usd, *tokens, engine.rates, under_way, engine.evidence)

    work.progress.begin(ahead_of(work, settlement.lane, pending, start_up_s))
    try:
        if _needs_certificate(work, settlement.lane):
            portions = _certified(work, settlement, pending)
        else:
            portions = iter([pending]) if pilot is None else pilot.portions(pending, start_up_s)
        for some in chain.from_iterable(map(quarantine.turns, chain(portions, _uncertified(work, settlement)))):
            for completion in settlement.engine.run(settlement.fed(feed(work, settlement.lane.name, some))):
                most_tokens = settlement.in_flight.get(completion.row, 0)
                rows = settlement.add(completion)
                work.progress.advance(rows, completion.usage, most_tokens, now)
                if pilot is not None and pilot.due(completion):
                    pilot.take(settlement.engine.evidence, start_up_s)
            if not settlement.complete or work.limits.stop():
                break
    except EngineDied as death:
        killer = quarantine.died(death)
        if killer is None:
            raise
        if not answered_any(work, settlement.lane):
            raise EngineDied(f"it has answered no row, and died of a single one as well: {death}") from None
        reason = f"the engine died with this row among others, and then with it alone: {death}"
        settlement.add(Completion(killer, failure=Failure("E_ENGINE_DIED", reason[:REASON_CHARACTERS])))
        raise
    return settlement.complete


def _certified(work: Work, settlement: Settlement, pending: Rows) -> Iterator[Rows]:
    """What a cheaper model may answer of these, once it is audited by rows that the full one has answered. Nothing yet
    where that one is to judge the audits as well, once this engine is gone."""
    lane = settlement.lane.name
    while not (looks := Looks.of(work, lane)).over and not work.limits.stop():
        if not looks.waiting:
            if not _try_all(work, settlement, looks):
                return  # stopped
            look_on(work)
            continue
        if not tried(work, looks):
            answers: list[Tried] = []
            try:
                if not _audit(work, settlement, np.unique(looks.of_lever.equals[looks.auditing]), answers):
                    return
            except EngineDied:  # what it has not answered is wrong: it is asked for no row that killed it
                keep_audit(work, lane, looks.begun - 1, answers)
                certify_lane(work, lane)
                raise
            keep_audit(work, lane, looks.begun - 1, answers)
        if to_judge(work):
            return
        certify_lane(work, lane)
    if len(rows := np.intersect1d(pending, pending_rows(work, settlement.lane))):
        yield rows


def _try_all(work: Work, settlement: Settlement, looks: Looks) -> bool:
    """Have the model answer all that it may serve, a portion at a time; True if it came to its end. What an engine died
    of is left to the full model."""
    lane = settlement.lane.name
    rows = untried(work, lane, np.unique(looks.of_lever.equals[looks.free(work)]))
    work.progress.say(f"{lane}: answers all {len(rows)} rows first, since how sure it is tells what it may serve")
    for portion in np.array_split(rows, max(1, math.ceil(len(rows) / PORTION_ROWS))):
        answers: list[Tried] = []
        try:
            if not _audit(work, settlement, portion, answers, "cascade"):
                return False
        except EngineDied:
            keep_portion(work, lane, answers)
            end_cascade(work, lane)
            look_on(work)
            raise
        keep_portion(work, lane, answers)
    end_cascade(work, lane)
    return True


def _uncertified(work: Work, settlement: Settlement) -> Iterator[Rows]:
    """What the next look audits, or no certificate covers at the end: the engine that runs answers that as well, and
    judges audits where that is the full model's to do. Then it is asked once more what it has answered, to know how
    sure its own answers are."""
    if not work.job.certifies or settlement.lane.name != "full":
        return
    ask = Asking(work, settlement)
    while not work.limits.stop():
        settlement.seal()  # what is judged is read from segments
        told = certify(work, ask)
        for lane in to_judge(work):
            told |= certify_lane(work, lane, ask)
        if not told or not len(rows := pending_rows(work, settlement.lane)):
            break
        work.progress.more(more_of(work, rows))
        yield rows
    again: list[Tried] = []
    if work.limits.stop() or not settlement.complete or len(pending_rows(work, settlement.lane)):
        return
    if len(rows := rows_to_repeat(work)) and _audit(work, settlement, rows, again):
        note_repeats(work, [one.completion for one in again], ask)


def _audit(work: Work, settlement: Settlement, rows: Rows, answers: list[Tried], kind: str = "audit") -> bool:
    """Answers that are judged before they are given to anybody; True if it came to its end."""
    watch = Watch(work, settlement.lane.name)
    requests = watch.requests(feed(work, settlement.lane.name, rows))
    try:
        for completion in settlement.engine.run(settlement.fed(requests)):
            settlement.audit(completion)
            answers.append(watch.tried(completion))
    except EngineDied as death:
        raise EngineDied(str(death)) from None  # no row is set aside for it: all of them have their answers
    if not settlement.complete:
        return False
    settlement.book_audits(kind)
    return True
