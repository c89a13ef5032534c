"""One lane, start to end: its pending representatives in planned order, an engine, and settlement as answers arrive."""

import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np

from flows.candidates import levers
from flows.certify import certify, certify_quantized
from flows.judging import Texts
from flows.learning import Ran, keep
from flows.limits import NOTHING, Room
from flows.looks import Looks
from flows.members import Members, Rows, answered_any, done_rows, pending_rows
from flows.noise import note_repeats, rows_to_repeat
from flows.open import Work
from flows.pace import Now
from flows.pilot import Pilot
from flows.quarantine import Quarantine
from flows.requests import kv_tokens_of, prompts_of, tables_to_order
from flows.settlement import LEAST_WASTE_S, Settlement, close, usd_of_usage, waste
from flows.turn import turn
from optimizer.cost import usd_of_time
from serving.engines.open import open_engine
from serving.records import Completion, EngineDied, Failure, Lane, Lever, Overhead, Request, Usage
from serving.store.schemas import ASKED, requests_from

FRUITLESS_DEATHS = 8  # in a row, without a row settled in between: halving a window takes no more
REASON_CHARACTERS = 300


def lanes_to_run(work: Work) -> list[Lane]:
    """The lanes that still have rows to answer, in the job's order."""
    members = work.run.stage(work.run.collapsed).rows("members")
    work.progress.start(rows=members, done=len(done_rows(work)))
    return [lane for lane in work.job.lanes.values() if len(pending_rows(work, lane))]


def answer_lane(work: Work, lane: Lane, pilot: Pilot | None = None, only: Rows | None = None) -> dict[str, Any]:
    """Answer what is pending in a lane, or `only` some of it. An engine that dies is started again, and the rows it may
    have died of are set aside; one that never gets anything done is given up."""
    quarantine = Quarantine()
    fruitless = 0
    while True:
        pending = pending_rows(work, lane)
        if only is not None:
            pending = np.intersect1d(pending, only)
        if not len(pending) or work.limits.stop() or _waits(work, lane):
            return {"lane": lane.name, "pending": len(pending)}
        try:
            complete = _run_engine(work, lane, pending, quarantine, pilot)
        except EngineDied as death:
            fruitless = fruitless + 1 if np.array_equal(pending_rows(work, lane), pending) else 0
            if fruitless > (FRUITLESS_DEATHS if death.suspects else 0):
                raise
            work.progress.say(f"{lane.name}: {death}; starting it again")
        else:
            if not complete and not work.limits.stop():
                raise EngineDied(f"{lane.name}: the engine ended without an answer for every row")


def _waits(work: Work, lane: Lane) -> bool:
    """True while the quantized model cannot be audited, since the full one has not answered what that takes."""
    if not _needs_certificate(work, lane):
        return False
    return not Looks.of(work, Lever.QUANTIZED).over and len(pending_rows(work, work.job.lanes["full"])) > 0


def _needs_certificate(work: Work, lane: Lane) -> bool:
    return lane.name == Lever.QUANTIZED and Lever.QUANTIZED in levers(work)


def _run_engine(work: Work, lane: Lane, pending: Rows, quarantine: Quarantine, pilot: Pilot | None) -> bool:
    """One engine from start to end; True if it answered all. Whatever happens to it, what it finished is settled."""
    log = work.log_of(lane)
    work.progress.say(f"{lane.name}: starting {work.job.engine.kind} for {lane.model} ({len(pending)} requests)")
    kv_tokens = kv_tokens_of(work, pending)
    drain = not work.price.bills_time
    settlement = ran = opened = None
    forked = work.servers.used
    with turn(work), work.metered(lane.name, work.job.engine.data_parallel) as meter:
        try:
            opened = open_engine(
                work.job.engine, lane, log, work.asked_to_stop, meter, kv_tokens, drain, work.job.tenant.name,
                work.adapters, work.servers,
            )  # fmt: skip
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


def _answer(
    work: Work, pending: Rows, quarantine: Quarantine, settlement: Settlement, pilot: Pilot | None, start_up_s: float
) -> bool:
    def now() -> Now:
        spent = settlement.meter.read()
        return Now(work.limits.running_usd, spent.prompt_tokens, spent.completion_tokens, settlement.engine.rates)

    work.progress.begin(*prompts_of(work, [pending_rows(work, lane) for lane in work.job.lanes.values()]))
    try:
        if _needs_certificate(work, settlement.lane):
            portions = _certified(work, settlement, pending)
        else:
            portions = iter([pending]) if pilot is None else pilot.portions(pending)
        for some in chain.from_iterable(map(quarantine.turns, chain(portions, _uncertified(work, settlement)))):
            for completion in settlement.engine.run(settlement.fed(_feed(work, some))):
                rows = settlement.add(completion)
                work.progress.advance(rows, completion.usage, now)
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
    """What the quantized model may answer of these, once it is audited by rows that the full one has answered."""
    while (looks := Looks.of(work, Lever.QUANTIZED)).waiting and not work.limits.stop():
        served: dict[int, Texts] = {}
        try:
            if not _audit(work, settlement, np.unique(looks.of_lever.equals[looks.auditing]), served):
                return  # stopped
        except EngineDied:
            certify_quantized(work, served)  # what it has not answered is wrong: it is asked for no row that killed it
            raise
        certify_quantized(work, served)
    if len(rows := np.intersect1d(pending, pending_rows(work, settlement.lane))):
        yield rows


def _uncertified(work: Work, settlement: Settlement) -> Iterator[Rows]:
    """Near-duplicates that the next look audits, or that no certificate covers at the end: the engine that runs answers
    them as well. Then it is asked once more what it has answered, to know how sure its own answers are."""
    if not work.job.certifies or settlement.lane.name != "full":
        return
    while not work.limits.stop():
        settlement.seal()  # what is judged is read from segments
        if not certify(work) or not len(rows := pending_rows(work, settlement.lane)):
            break
        yield rows
    again: dict[int, Texts] = {}
    if work.limits.stop() or not settlement.complete or len(pending_rows(work, settlement.lane)):
        return
    if len(rows := rows_to_repeat(work)) and _audit(work, settlement, rows, again):
        note_repeats(work, again)


def _audit(work: Work, settlement: Settlement, rows: Rows, answers: dict[int, Texts]) -> bool:
    """Answers that are judged and given to nobody, by row; True if it came to its end."""
    try:
        for completion in settlement.engine.run(settlement.fed(_feed(work, rows))):
            settlement.audit(completion)
            if completion.failure is None:
                answers[completion.row] = tuple(choice.text for choice in completion.choices)
    except EngineDied as death:
        raise EngineDied(str(death)) from None  # no row is set aside for it: all of them have their answers
    if not settlement.complete:
        return False
    settlement.book_audits()
    return True


def _feed(work: Work, pending: Rows) -> Iterator[Request | None]:
    """The requests in planned order, decoded a few at a time. Where the budget cannot bear the next beside all that is
    in flight, None until it can; it stops where it never will."""
    for table in tables_to_order(work, pending, ASKED):
        for request in requests_from(table):
            at_worst_usd = _at_worst_usd(work, request)
            while (room := work.limits.afford(request.row, at_worst_usd)) is Room.LATER:
                yield None
            if room is Room.NEVER:
                return
            yield request


def _at_worst_usd(work: Work, request: Request) -> Decimal:
    """The most that a request can cost where tokens are billed. An untokenized prompt has at most a token a byte."""
    if work.price.bills_time:
        return NOTHING
    known = request.prompt_token_ids
    at_most = sum(len(turn.content.encode()) + 16 for turn in request.messages) if known is None else len(known)
    return usd_of_usage(work, Usage(at_most, request.sampling.max_tokens * request.sampling.n))
