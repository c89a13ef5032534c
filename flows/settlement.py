"""From finished requests to settled rows: what each cost, who else it answers, and durable together."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal

import pyarrow.compute as pc

from flows.members import Members
from flows.open import Work
from flows.settled_rows import settled_rows
from optimizer.cost import share_out, usd_of_time, usd_of_tokens
from serving.records import Completion, Engine, EngineDied, Lane, Load, Overhead, Request, Usage
from serving.store.durable import remove
from serving.store.meter import Meter, Spent
from serving.store.schemas import usage_columns
from serving.store.segments import Chain, Span

COMMIT_ROWS = 1024  # rows that become durable with one fsync, some 4 ms
COMMIT_S = 1.0  # and no finished row waits longer than this to be durable
SEAL_ROWS = 8192  # rows of a segment: few files, each of a size that reads well
SEAL_S = 30.0  # and no row waits longer than this to be seen in the ledger
LEAST_WASTE_S = 0.1  # less than this since the last commit is the engine's own ending


@dataclass(slots=True)
class Settlement:
    """Collects finished requests and settles them with their charges, and with every row that shares the answer."""

    work: Work
    lane: Lane
    engine: Engine
    meter: Meter
    members: Members
    overheads: list[Overhead]
    _in_flight: dict[int, int] = field(default_factory=dict)  # the most tokens that a row may put out
    _waiting: list[Completion] = field(default_factory=list)
    _audits: list[Completion] = field(default_factory=list)
    _settled: Spent = field(default_factory=Spent)
    beside: Spent = field(default_factory=Spent)  # tokens of what answers no row, such as audits
    _load: Load = field(default_factory=Load)  # up to the last commit
    _fed_all: bool = True
    _failed: bool = False
    _committed_at: float = field(default_factory=time.monotonic)
    _sealed_at: float = field(default_factory=time.monotonic)

    def fed(self, requests: Iterator[Request | None]) -> Iterator[Request | None]:
        """The same requests, remembered: the engine is held to its promise to answer each of them once."""
        self._fed_all = False
        for request in requests:
            if request is not None:
                self._in_flight[request.row] = request.sampling.max_tokens * request.sampling.n
            yield request
        self._fed_all = True

    @property
    def complete(self) -> bool:
        """True if the engine took every request and answered it."""
        return self._fed_all and not self._in_flight

    @property
    def in_flight(self) -> Mapping[int, int]:
        """By row, the most tokens that it may put out."""
        return self._in_flight

    def add(self, completion: Completion) -> int:
        """Take one finished request; returns how many rows it answers."""
        self._taken(completion)
        self._waiting.append(completion)
        if len(self._waiting) >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_S:
            self.commit()
        return self.members.count(completion.row)

    def audit(self, completion: Completion) -> None:
        """Take one whose answer is judged and given to nobody."""
        self._taken(completion)
        self._audits.append(completion)

    def book_audits(self, kind: str) -> None:
        """What the audits since the last commit took is an overhead of this kind: none of it answers a row."""
        used = usage_columns(self._audits)
        prompt_tokens = int((used["prompt_tokens"] - used["cached_tokens"]).sum())
        completion_tokens = int(used["completion_tokens"].sum())
        seconds = self.work.limits.lap()
        usd = usd_of_time(self.work.price, seconds)
        usd += sum(
            (usd_of_usage(self.work, self.lane.name, completion.usage) for completion in self._audits), Decimal(0)
        )
        tokens = prompt_tokens + completion_tokens
        self.overheads.append(Overhead(kind, self.lane.name, round(seconds, 6), usd, tokens, self.meter.name))
        booked = Spent(0.0, prompt_tokens, completion_tokens)
        self._settled += booked
        self.beside += booked
        self.work.limits.release(completion.row for completion in self._audits)
        self._audits.clear()
        self.seal()

    def _taken(self, completion: Completion) -> None:
        if completion.row not in self._in_flight:
            raise EngineDied(f"the engine answered row {completion.row}, which it was not asked, or was asked once")
        del self._in_flight[completion.row]
        self.work.limits.finished(completion.row, usd_of_usage(self.work, self.lane.name, completion.usage))

    def commit(self) -> None:
        """One durable step: the rows, what they cost, and the overheads that came before them."""
        rows = self._chain.waiting_rows + len(self._waiting)
        self._settle(seal=rows >= SEAL_ROWS or time.monotonic() - self._sealed_at >= SEAL_S)

    def seal(self) -> None:
        """The same, into a segment: what is read of a run is read from segments."""
        self._settle(seal=True)

    def _settle(self, seal: bool) -> None:
        self._failed = True  # until it is durable: what could not be committed once stays open, and is not tried again
        span = self._span()
        if seal:
            self._chain.seal(span)
            self._sealed_at = time.monotonic()
        else:
            self._chain.commit(span)
        self._booked(span)
        self._failed = False

    def finish(self) -> None:
        """Settle and seal what is left, and book what the engine spent beyond it."""
        self.work.limits.release(self._in_flight)
        if self._failed:
            return
        span = self._span()
        seconds = 0.0 if span.rows.num_rows else self.work.limits.lap()
        if self._in_flight:
            lost = self._lost()
            if lost or seconds > LEAST_WASTE_S:
                span.overheads.append(waste(self.work, self.meter.name, self.lane.name, seconds, lost))
        elif seconds > LEAST_WASTE_S:
            usd = usd_of_time(self.work.price, seconds)
            span.overheads.append(Overhead("shut_down", self.lane.name, round(seconds, 6), usd, engine=self.meter.name))
        span = replace(span, closes=(self.meter.name,))
        if span.rows.num_rows or span.overheads or self._chain.waiting_rows:
            self._chain.seal(span)
            self._booked(span)
        remove(self.meter.path)

    @property
    def _chain(self) -> Chain:
        return self.work.writer.chain(self.lane.name)

    def _span(self) -> Span:
        """What was finished since the last one, with its share of the time. Time without a row is left running."""
        finished, self._waiting = self._waiting, []
        overheads, self.overheads = self.overheads, []
        self._committed_at = time.monotonic()
        rates = self.engine.rates
        seconds = self.work.limits.lap() if finished else 0.0
        used = usage_columns(finished)
        prompt, cached, output = (used[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
        charges = share_out(seconds, self.work.prices[self.lane.name], prompt, cached, output, rates)
        rows = settled_rows(self.lane, finished, charges, self.members)
        self.work.limits.release(completion.row for completion in finished)
        self._settled += Spent(0.0, int((prompt - cached).sum()), int(output.sum()))
        return Span(
            rows,
            overheads,
            lane=self.lane.name,
            engine=self.meter.name,
            seconds=seconds,
            rates=asdict(rates) if rates else None,
            load=self._load_since(),
        )

    def _load_since(self) -> dict[str, float] | None:
        """The last commit."""
        if (load := self.engine.load) is None:
            return None
        told, self._load = asdict(load.since(self._load)), load
        return told

    def _booked(self, span: Span) -> None:
        self.work.limits.spend(pc.sum(span.rows["usd"]).as_py() or Decimal(0))
        self.work.limits.spend(sum((line.usd for line in span.overheads), Decimal(0)))

    def _lost(self) -> int:
        """Tokens that the engine computed for requests that it was not let finish."""
        lost = self.meter.read() - self._settled
        return max(0, lost.prompt_tokens) + max(0, lost.completion_tokens)


def book_the_past(work: Work) -> None:
    """What was spent before now; and what a killed process spent and lost, which becomes a line of its own."""
    for loss in work.writer.losses:
        tokens = loss.spent.prompt_tokens + loss.spent.completion_tokens
        worth_a_line = tokens or loss.spent.seconds > LEAST_WASTE_S
        lines = [waste(work, loss.engine, loss.lane, loss.spent.seconds, tokens)] if worth_a_line else []
        close(work, loss.engine, loss.lane, [] if work.run.has_booked(loss.engine) else lines)
    work.limits.spend(work.run.spent_usd())


def close(work: Work, engine: str, lane: str, lines: list[Overhead]) -> None:
    """Book what an engine spent beside settled rows, and close its meter."""
    if lines:
        work.writer.chain("house").seal(Span(overheads=lines, lane=lane, engine=engine, closes=(engine,)))
    remove(work.run.meter_file(engine))


def waste(work: Work, engine: str, lane: str, seconds: float, tokens: int) -> Overhead:
    return Overhead("waste", lane, round(seconds, 6), usd_of_time(work.price, seconds), tokens, engine)


def usd_of_usage(work: Work, lane: str, usage: Usage) -> Decimal:
    """What the tokens cost where tokens are billed; engine time is billed by the span."""
    price = work.prices[lane]
    return Decimal(0) if price.bills_time else usd_of_tokens(price, usage)
