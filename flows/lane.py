"""One lane, start to end: its pending representatives in prefix order, an engine, and settlement as answers arrive."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.open import Work
from optimizer.cost import share_out, usd_of_time, usd_of_tokens
from optimizer.order import prefix_order
from serving.engines.open import open_engine
from serving.records import (
    Charge,
    Completion,
    Endpoint,
    Engine,
    EngineDied,
    Lane,
    Outcome,
    Overhead,
    Request,
    Settled,
    Source,
    Usage,
    sampling_from_json,
)
from serving.store.durable import make_folder
from serving.store.schemas import MEMBERS, REQUESTS, ROUTES, request_from_columns
from serving.store.segments import read_rows

SEAL_ROWS = 256  # a durable segment of so many rows costs some 12 ms
SEAL_S = 2.0  # and no finished row waits longer than this to be durable
FEED_ROWS = 256  # how many requests are decoded at a time
BLOCK_SLACK_TOKENS = 128  # the largest block that an engine may only half fill, for each sequence
LEAST_WASTE_S = 0.1  # less than this since the last seal is the engine's own ending


@dataclass(frozen=True, slots=True)
class Member:
    """A row that an answer goes to."""

    row: int
    custom_id: str
    endpoint: Endpoint
    source: Source


@dataclass(slots=True)
class Settlement:
    """Collects finished requests and seals them with their charges, together with every row that shares the answer."""

    work: Work
    lane: Lane
    engine: Engine
    members: dict[int, list[Member]]
    overheads: list[Overhead]
    _in_flight: set[int] = field(default_factory=set)
    _waiting: list[Completion] = field(default_factory=list)
    _fed_all: bool = False
    _failed: bool = False
    _sealed_at: float = field(default_factory=time.monotonic)

    def fed(self, requests: Iterator[Request]) -> Iterator[Request]:
        """The same requests, remembered: the engine is held to its promise to answer each of them once."""
        for request in requests:
            self._in_flight.add(request.row)
            yield request
        self._fed_all = True

    @property
    def complete(self) -> bool:
        """True if the engine took every request and answered it."""
        return self._fed_all and not self._in_flight

    def add(self, completion: Completion) -> None:
        if completion.row not in self._in_flight:
            raise EngineDied(f"the engine answered row {completion.row}, which it was not asked, or was asked once")
        self._in_flight.remove(completion.row)
        self.work.limits.reserve(completion.row, _usd_of_tokens(self.work, completion.usage))
        self._waiting.append(completion)
        if len(self._waiting) >= SEAL_ROWS or time.monotonic() - self._sealed_at >= SEAL_S:
            self.seal()

    def seal(self) -> None:
        """One durable step: the rows, what they cost, and the overheads that came before them."""
        span_s = self.work.limits.lap()
        waiting, self._waiting = self._waiting, []
        self._failed = True  # until it is durable: what could not be sealed once stays open, and is not tried again
        usages = [completion.usage for completion in waiting]
        rates = self.engine.rates
        charges = share_out(span_s, self.work.price, usages, rates)
        overheads, self.overheads = self.overheads, []
        if not charges:
            overheads.append(_overhead(self.work, "waste", self.lane, span_s))
        rows = [
            row for completion, charge in zip(waiting, charges, strict=True) for row in self._settle(completion, charge)
        ]
        figures = {
            "lane": self.lane.name,
            "seconds": span_s if charges else 0.0,
            "rates": asdict(rates) if rates else None,
            "sealed_unix_s": round(time.time(), 3),
        }
        self.work.writer.seal(rows, overheads, figures)
        self.work.limits.spend(sum((charge.usd for charge in charges), Decimal(0)))
        self.work.limits.spend(sum((line.usd for line in overheads), Decimal(0)))
        self.work.limits.release(completion.row for completion in waiting)
        self._failed = False
        self._sealed_at = time.monotonic()

    def finish(self) -> None:
        """Seal what is left. Time in which nothing finished is waste, and is noted as that."""
        if self._failed:
            return
        if self._waiting or self.overheads or self.work.limits.running_s > LEAST_WASTE_S:
            self.seal()

    def rows_served_by(self, completion: Completion) -> int:
        return len(self._served_by(completion))

    def _served_by(self, completion: Completion) -> list[Member]:
        """Who shares this answer. Equal requests share a failure too; a near-duplicate gets a try of its own."""
        members = self.members[completion.row]
        alone = [member for member in members if member.row == completion.row]
        if not alone:  # a near-duplicate whose representative failed, now run itself
            (orphan,) = members
            return [replace(orphan, source=Source.ENGINE)]
        return [member for member in members if member.source is not Source.SEMANTIC] if completion.failure else members

    def _settle(self, completion: Completion, charge: Charge) -> Iterator[Settled]:
        for member in self._served_by(completion):
            run_here = member.row == completion.row
            yield Settled(
                row=member.row,
                custom_id=member.custom_id,
                endpoint=member.endpoint,
                outcome=Outcome.FAILED if completion.failure else Outcome.ANSWERED,
                lane=self.lane.name,
                model=self.lane.model,
                source=member.source,
                answered_by=completion.row,
                choices=completion.choices,
                usage=completion.usage,
                charge=charge if run_here else Charge(0.0, Decimal(0)),
                failure=completion.failure,
                prefill_s=completion.prefill_s if run_here else None,
                decode_s=completion.decode_s if run_here else None,
            )


def lanes_to_run(work: Work) -> list[Lane]:
    """The lanes that still have rows to answer, in the job's order."""
    members = work.run.stage(work.run.collapsed).read("members", MEMBERS, ["row"]).num_rows
    work.progress.start(rows=members, done=len(_done(work)))
    return [lane for lane in work.job.lanes.values() if _pending(work, lane)]


def book_the_past(work: Work) -> None:
    """What was spent before now, and what a killed process threw away, which becomes a line of its own."""
    from serving.store.ledger import open_ledger

    with open_ledger(work.run.folder.parent) as ledger:
        spent = ledger.execute("SELECT usd FROM bills WHERE run_id = ?", [work.run.run_id]).fetchone()
    work.limits.spend(spent[0] if spent else Decimal(0))
    if work.writer.lost_s > LEAST_WASTE_S:
        _seal_waste(work, None, work.writer.lost_s)


def answer_lane(work: Work, lane: Lane) -> dict[str, Any]:
    """Answer what is pending in a lane. An engine that dies is started again, as long as it gets anything done."""
    while True:
        pending = _pending(work, lane)
        if not pending or work.limits.stop():
            return {"lane": lane.name, "pending": len(pending)}
        try:
            complete = _run_engine(work, lane, _requests(work, pending))
        except EngineDied as death:
            if _pending(work, lane) == pending:
                raise
            work.progress.say(f"{lane.name}: {death}; starting it again")
        else:
            if not complete and not work.limits.stop():
                raise EngineDied(f"{lane.name}: the engine ended without an answer for every row")


def _run_engine(work: Work, lane: Lane, pending: pa.Table) -> bool:
    """One engine from start to end; True if it answered all. Whatever happens to it, what it finished is sealed."""
    logs = work.run.folder / "logs"
    make_folder(logs)
    log = logs / f"{lane.name}-{work.writer.epoch:04}.log"
    work.progress.say(f"{lane.name}: starting {work.job.engine.kind} for {lane.model} ({pending.num_rows} requests)")
    drain = not work.price.bills_time
    work.limits.start_clock()
    settlement = None
    try:
        with open_engine(work.job.engine, lane, log, work.asked_to_stop, _kv_tokens(work, pending), drain) as engine:
            start_up = _overhead(work, "start_up", lane, work.limits.lap())
            settlement = Settlement(work, lane, engine, _members_of(work), [start_up])
            for completion in engine.run(settlement.fed(_feed(work, pending))):
                settlement.add(completion)
                work.progress.advance(settlement.rows_served_by(completion), completion.usage, work.limits.running_usd)
            return settlement.complete
    finally:
        if settlement is not None:
            settlement.finish()
        elif work.limits.running_s > LEAST_WASTE_S:  # it never became ready
            _seal_waste(work, lane, work.limits.lap())
        work.limits.stop_clock()


def _kv_tokens(work: Work, pending: pa.Table) -> int | None:
    """The tokens that a KV cache has a use for: all that can run at once at full length, and every prompt once."""
    prompts: list[int] = pending.column("prompt_tokens").to_pylist()
    if None in prompts:
        return None
    samplings = (sampling_from_json(text) for text in pending.column("sampling").to_pylist())
    outputs = [sampling.max_tokens * sampling.n for sampling in samplings]
    longest = sorted(map(sum, zip(prompts, outputs, strict=True)), reverse=True)[: work.job.engine.max_num_seqs]
    return sum(longest) + sum(prompts) + BLOCK_SLACK_TOKENS * len(longest)


def _feed(work: Work, pending: pa.Table) -> Iterator[Request]:
    """The requests in prefix order, decoded a few at a time; stops where the budget could not bear the next."""
    order = prefix_order(pending.column("prompt_token_ids").to_pylist())
    for start in range(0, len(order), FEED_ROWS):
        for columns in pending.take(order[start : start + FEED_ROWS]).to_pylist():
            request = request_from_columns(columns)
            if not work.limits.afford(request.row, _at_worst_usd(work, request)):
                return
            yield request


def _at_worst_usd(work: Work, request: Request) -> Decimal:
    """The most that a request can cost where tokens are billed. An untokenized prompt has at most a token a byte."""
    known = request.prompt_token_ids
    at_most = sum(len(turn.content.encode()) + 16 for turn in request.messages) if known is None else len(known)
    return _usd_of_tokens(work, Usage(at_most, request.sampling.max_tokens * request.sampling.n))


def _usd_of_tokens(work: Work, usage: Usage) -> Decimal:
    return Decimal(0) if work.price.bills_time else usd_of_tokens(work.price, usage)


def _pending(work: Work, lane: Lane) -> list[int]:
    """The rows that a lane has yet to run: representatives, and rows whose representative failed."""
    routed = work.run.stage(work.run.routed).read("routes", ROUTES, ["row", "lane"])
    rows = routed.filter(pc.equal(routed["lane"], lane.name))["row"].to_pylist()
    done = _done(work)
    of_lane = done.intersection(rows)
    members = work.run.stage(work.run.collapsed).read("members", MEMBERS).to_pylist()
    orphans = [member["row"] for member in members if member["answered_by"] in of_lane and member["row"] not in done]
    return [*(row for row in rows if row not in done), *orphans]


def _requests(work: Work, rows: list[int]) -> pa.Table:
    requests = work.run.stage(work.run.admitted).read("requests", REQUESTS)
    return requests.filter(pc.is_in(requests["row"], pa.array(rows, pa.int64())))


def _done(work: Work) -> set[int]:
    return {row["row"] for row in read_rows(work.run.segments, ["row"])}


def _members_of(work: Work) -> dict[int, list[Member]]:
    """By representative, the rows that its answer goes to."""
    names = work.run.stage(work.run.admitted).read("requests", REQUESTS, ["row", "custom_id", "endpoint"]).to_pylist()
    known = {row["row"]: row for row in names}
    members: dict[int, list[Member]] = {}
    for member in work.run.stage(work.run.collapsed).read("members", MEMBERS).to_pylist():
        row = known[member["row"]]
        to = Member(row["row"], row["custom_id"], Endpoint(row["endpoint"]), Source(member["source"]))
        members.setdefault(member["answered_by"], []).append(to)
        if to.source is Source.SEMANTIC:
            members[to.row] = [to]  # in case its representative fails
    return members


def _seal_waste(work: Work, lane: Lane | None, seconds: float) -> None:
    waste = _overhead(work, "waste", lane, seconds)
    sealed = {"lane": waste.lane, "seconds": 0.0, "rates": None, "sealed_unix_s": round(time.time(), 3)}
    work.writer.seal([], [waste], sealed)
    work.limits.spend(waste.usd)


def _overhead(work: Work, kind: str, lane: Lane | None, seconds: float) -> Overhead:
    return Overhead(kind, lane.name if lane else None, round(seconds, 6), usd_of_time(work.price, seconds))
