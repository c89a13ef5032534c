"""One lane, start to end: its pending representatives in planned order, an engine, and settlement as answers arrive."""

from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from flows.feed_order import finished_lengths, in_order
from flows.limits import Room
from flows.members import Members, Rows, answered_any, done_rows, pending_rows
from flows.open import Work
from flows.quarantine import Quarantine
from flows.settlement import LEAST_WASTE_S, Settlement, close, usd_of_usage, waste
from optimizer.cost import usd_of_time
from serving.engines.open import open_engine
from serving.records import Completion, EngineDied, Failure, Lane, Overhead, Request, Usage, sampling_from_json
from serving.store.durable import make_folder
from serving.store.schemas import request_from_columns

FRUITLESS_DEATHS = 8  # in a row, without a row settled in between: halving a window takes no more
REASON_CHARACTERS = 300
BLOCK_SLACK_TOKENS = 128  # the largest block that an engine may only half fill, for each sequence


def lanes_to_run(work: Work) -> list[Lane]:
    """The lanes that still have rows to answer, in the job's order."""
    members = work.run.stage(work.run.collapsed).rows("members")
    work.progress.start(rows=members, done=len(done_rows(work)))
    return [lane for lane in work.job.lanes.values() if len(pending_rows(work, lane))]


def answer_lane(work: Work, lane: Lane) -> dict[str, Any]:
    """Answer what is pending in a lane. An engine that dies is started again, and the rows it may have died of are set
    aside; one that never gets anything done is given up."""
    quarantine = Quarantine()
    fruitless = 0
    while True:
        pending = pending_rows(work, lane)
        if not len(pending) or work.limits.stop():
            return {"lane": lane.name, "pending": len(pending)}
        try:
            complete = _run_engine(work, lane, pending, quarantine)
        except EngineDied as death:
            fruitless = fruitless + 1 if np.array_equal(pending_rows(work, lane), pending) else 0
            if fruitless > (FRUITLESS_DEATHS if death.suspects else 0):
                raise
            work.progress.say(f"{lane.name}: {death}; starting it again")
        else:
            if not complete and not work.limits.stop():
                raise EngineDied(f"{lane.name}: the engine ended without an answer for every row")


def _run_engine(work: Work, lane: Lane, pending: Rows, quarantine: Quarantine) -> bool:
    """One engine from start to end; True if it answered all. Whatever happens to it, what it finished is settled."""
    logs = work.run.folder / "logs"
    make_folder(logs)
    log = logs / f"{lane.name}-{work.writer.epoch:04}.log"
    work.progress.say(f"{lane.name}: starting {work.job.engine.kind} for {lane.model} ({len(pending)} requests)")
    kv_tokens = _kv_tokens(work, pending)
    drain = not work.price.bills_time
    settlement = None
    opened = None
    with work.metered(lane.name, work.job.engine.data_parallel) as meter:
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
                return _answer(work, pending, quarantine, settlement)
        finally:
            if settlement is not None:
                settlement.finish()
            elif opened is not None:  # it never became ready
                lost_s = work.limits.lap()
                lines = [waste(work, meter.name, lane.name, lost_s, 0)] if lost_s > LEAST_WASTE_S else []
                close(work, meter.name, lane.name, lines)
            else:  # these settings cannot be run, and nothing was
                close(work, meter.name, lane.name, [])


def _answer(work: Work, pending: Rows, quarantine: Quarantine, settlement: Settlement) -> bool:
    def spent_usd() -> Decimal:
        return work.limits.running_usd

    try:
        for turn in quarantine.turns(pending):
            for completion in settlement.engine.run(settlement.fed(_feed(work, turn))):
                rows = settlement.add(completion)
                work.progress.advance(rows, completion.usage, spent_usd)
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


def _requests(work: Work, pending: Rows, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The requests of these rows, a part of them at a time, in the order of the input."""
    for part in work.run.stage(work.run.admitted).tables("requests", columns):
        yield part.filter(pa.array(np.isin(part["row"].to_numpy(), pending)))


def _kv_tokens(work: Work, pending: Rows) -> int | None:
    """The tokens that a KV cache has a use for: all that can run at once at full length, and every prompt once."""
    at_once = work.job.engine.max_num_seqs
    prompt_tokens = 0
    longest = np.empty(0, np.int64)
    for part in _requests(work, pending, ["row", "prompt_tokens", "sampling"]):
        if part["prompt_tokens"].null_count:
            return None
        prompts = part["prompt_tokens"].to_numpy().astype(np.int64)
        prompt_tokens += int(prompts.sum())
        longest = np.sort(np.concatenate([longest, prompts + _output_tokens(part["sampling"])]))[-at_once:]
    return int(longest.sum()) + prompt_tokens + BLOCK_SLACK_TOKENS * len(longest)


def _output_tokens(samplings: pa.ChunkedArray) -> Rows:
    """The most that each may put out; a job has few different samplings, each of which is read once."""
    few = samplings.combine_chunks().dictionary_encode()
    each = [sampling_from_json(text) for text in few.dictionary.to_pylist()]
    most = np.array([sampling.max_tokens * sampling.n for sampling in each], np.int64)
    of_each: Rows = most[few.indices.to_numpy()]
    return of_each


def _feed(work: Work, pending: Rows) -> Iterator[Request | None]:
    """The requests in planned order, decoded a few at a time. Where the budget cannot bear the next beside all that is
    in flight, None until it can; it stops where it never will."""
    for table in _tables_to_order(work, pending):
        for columns in table.to_pylist():
            request = request_from_columns(columns)
            at_worst_usd = _at_worst_usd(work, request)
            while (room := work.limits.afford(request.row, at_worst_usd)) is Room.LATER:
                yield None
            if room is Room.NEVER:
                return
            yield request


def _tables_to_order(work: Work, pending: Rows) -> Iterator[pa.Table]:
    columns = ["row", "custom_id", "endpoint", "messages", "sampling", "prompt_token_ids", "adapter"]
    read = partial(_requests, work)
    slots = work.job.engine.max_num_seqs
    return in_order(read, pending, partial(finished_lengths, work), _output_tokens, slots, columns, work.run.folder)


def _at_worst_usd(work: Work, request: Request) -> Decimal:
    """The most that a request can cost where tokens are billed. An untokenized prompt has at most a token a byte."""
    if work.price.bills_time:
        return Decimal(0)
    known = request.prompt_token_ids
    at_most = sum(len(turn.content.encode()) + 16 for turn in request.messages) if known is None else len(known)
    return usd_of_usage(work, Usage(at_most, request.sampling.max_tokens * request.sampling.n))
