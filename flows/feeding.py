"""Requests on their way into an engine, held back where the budget cannot bear them."""

from collections.abc import Generator, Iterable, Iterator
from decimal import Decimal

from flows.limits import NOTHING, Room
from flows.members import Rows
from flows.open import Work
from flows.requests import tables_to_order
from flows.settlement import usd_of_usage
from serving.records import Request, Usage
from serving.store.schemas import ASKED, requests_from


def feed(work: Work, lane: str, pending: Rows) -> Iterator[Request | None]:
    """The requests in planned order, decoded a few at a time."""
    for table in tables_to_order(work, pending, ASKED):
        if (yield from afforded(work, lane, requests_from(table))) is Room.NEVER:
            return


def afforded(work: Work, lane: str, requests: Iterable[Request]) -> Generator[Request | None, None, Room]:
    """The same. Where the budget cannot bear the next beside all that is in flight, None until it can; it stops where
    it never will."""
    for request in requests:
        at_worst_usd = _at_worst_usd(work, lane, request)
        while (room := work.limits.afford(request.row, at_worst_usd)) is Room.LATER:
            yield None
        if room is Room.NEVER:
            return room
        yield request
    return Room.NOW


def _at_worst_usd(work: Work, lane: str, request: Request) -> Decimal:
    """The most that a request can cost where tokens are billed. An untokenized prompt has at most a token a byte."""
    if work.price.bills_time:
        return NOTHING
    known = request.prompt_token_ids
    at_most = sum(len(turn.content.encode()) + 16 for turn in request.messages) if known is None else len(known)
    return usd_of_usage(work, lane, Usage(at_most, request.sampling.max_tokens * request.sampling.n))
