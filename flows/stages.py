"""Collapse, route and publish: plain functions over an open job. A complete stage is not run again."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.candidates import Candidates, near_table
from flows.looks import can_certify
from flows.members import among, not_done
from flows.neighbours import Compared, compare
from flows.open import Work
from flows.spill import spill_to
from optimizer.collapse import SOURCES, Pair, Rows, assign, copies_of, star_cover
from optimizer.equal_keys import Block, Keyed, representatives
from optimizer.route import ToQuantized
from optimizer.route import route as lane_of
from serving.records import NEAR, sampling_from_json
from serving.store.durable import drop_unfinished, remove
from serving.store.parts import PartWriter, read_manifest
from serving.store.run import Run
from serving.store.schemas import MEMBERS, PAIRS, ROUTES
from serving.store.schemas import NEAR as NEAR_ROWS

Figures = dict[str, Any]


def collapse(work: Work) -> Figures:
    """Which rows may share an answer? Equal keys; and near-duplicates, where the job asks for them."""
    if (done := read_manifest(work.run.collapsed)) is not None:
        return done.figures
    reuse = work.job.reuse
    count = work.run.stage(work.run.admitted).rows("requests")
    blocks = representatives(keys_of(work.run, reuse.exact), spill_to(work.run.folder))
    near, served = Compared(), dict[int, int]()
    if reuse.semantic and not can_certify(work, count - 1):
        work.progress.say(f"near-duplicates are not looked for: {count} rows are too few to certify any of them")
    elif reuse.semantic:
        every = _joined(blocks)
        near = compare(work, np.unique(every.first[keyed(work.run).repeatable]))
        served = star_cover(near.pairs, copies_of(near.pairs, every.first))
        blocks = iter([every])

    parts = PartWriter(work.run.collapsed.parent, "collapse", {"pairs": PAIRS, "members": MEMBERS, "near": NEAR_ROWS})
    parts.extend("pairs", (_pair(pair) for pair in near.pairs))
    to_run = 0
    for rows, exact in blocks:
        members = assign(rows, exact, served)
        source = pa.DictionaryArray.from_arrays(members.source, [source.value for source in SOURCES]).cast(pa.string())
        parts.add_table("members", pa.table([rows, exact, members.answered_by, source], schema=MEMBERS))
        if near.pairs:
            parts.add_table("near", near_table(rows, exact, members, near.pairs, near.texts))
        to_run += int((members.answered_by == rows).sum())
    overheads = [{**asdict(line), "usd": str(line.usd)} for line in near.overheads]
    told = {"representatives": to_run, "overheads": overheads, "neighbours": near.figures}
    figures = parts.finish(told).figures
    for line in near.overheads:
        work.limits.spend(line.usd)
        remove(work.run.meter_file(str(line.engine)))  # what it shows is booked
    return figures


def keys_of(run: Run, exact: bool = True) -> Iterator[Keyed]:
    """Of every request, a part of them at a time. If equal ones are not to share, as if all were drawn at random."""
    for part in run.stage(run.admitted).tables("requests", ["row", "key", "sampling"]):
        keys = np.frombuffer(bytes.fromhex("".join(part["key"].to_pylist())), np.uint64).reshape(-1, 4)
        repeatable = np.array(_of_each(part["sampling"], lambda text: sampling_from_json(text).repeatable), np.bool_)
        yield Keyed(part["row"].to_numpy(), keys, repeatable & exact)


def keyed(run: Run) -> Keyed:
    """All of them; 41 bytes a row."""
    count = run.stage(run.admitted).rows("requests")
    found = Keyed(np.empty(count, np.int64), np.empty((count, 4), np.uint64), np.empty(count, np.bool_))
    start = 0
    for part in keys_of(run):
        here = slice(start, start := start + len(part.rows))
        for column, values in zip(found, part, strict=True):
            column[here] = values
    return found


def _joined(blocks: Iterable[Block]) -> Block:
    none = Block(np.empty(0, np.int64), np.empty(0, np.int64))
    return Block(*(np.concatenate(columns) for columns in zip(none, *blocks, strict=True)))


def _of_each(column: pa.ChunkedArray, tell: Callable[[Any], Any]) -> pa.Array:
    """What `tell` says of each value; it is asked once for equal ones, of which a column often has few."""
    values = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return pa.array([tell(value) for value in values.dictionary.to_pylist()]).take(values.indices)


def _pair(pair: Pair) -> dict[str, Any]:
    compared = {"row": pair.row, "other_row": pair.other_row, "kind": pair.kind.value}
    return {**compared, "similarity": pair.similarity, "veto": pair.veto}


def route(work: Work) -> Figures:
    """Which lane answers each representative that has no answer yet?"""
    if (done := read_manifest(work.run.routed)) is not None:
        return done.figures
    to_run = not_done(work, _representatives(work))  # but for what an earlier run has answered
    answering = Candidates.of(work, NEAR).answered_by
    rule, cheapest = work.job.route, next(iter(work.job.cheaper_lanes), "full")
    parts = PartWriter(work.run.routed.parent, "route", {"routes": ROUTES})
    for part in work.run.stage(work.run.admitted).tables("requests", ["row", "prompt_tokens", "adapter"]):
        run = part.filter(pa.array(among(part["row"].to_numpy(), to_run)))
        # An adapter was made for the full model, and what others are to be answered by should be its answer: these go
        # there whatever the rule says.
        full = pc.or_(pc.is_valid(run["adapter"]), pa.chunked_array([np.isin(run["row"], answering)]))
        none: ToQuantized = "none"
        for rows, to in ((run.filter(full), none), (run.filter(pc.invert(full)), rule.to_quantized)):
            if rows.num_rows:
                found = _of_each(rows["prompt_tokens"], partial(_route, to, rule.short_prompt_tokens, cheapest))
                parts.add_table("routes", pa.table([rows["row"], *found.flatten()], schema=ROUTES))
    return parts.finish({}).figures


def _route(
    to_quantized: ToQuantized, short_prompt_tokens: int, cheapest: str, prompt_tokens: int | None
) -> dict[str, Any]:
    return asdict(lane_of(prompt_tokens, to_quantized, short_prompt_tokens, cheapest))


def _representatives(work: Work) -> Rows:
    found = [np.empty(0, np.int64)]
    for part in work.run.stage(work.run.collapsed).tables("members", ["row", "answered_by"]):
        rows, answered_by = part["row"].to_numpy(), part["answered_by"].to_numpy()
        found.append(rows[rows == answered_by])
    return np.concatenate(found)


def publish(work: Work) -> Figures:
    """Write the answers and errors out, and the ledger anew; a run without an open row is marked finished."""
    from flows.price_list import listed_prices
    from serving.store.export import export, open_rows
    from serving.store.finished import finish
    from serving.store.ledger import open_ledger, write_ledger

    runs = work.run.folder.parent
    drop_unfinished(work.run.export)
    with open_ledger(runs, work.run) as ledger:
        export(work.run, ledger)
        left = open_rows(work.run, ledger)
    write_ledger(runs, listed_prices())  # before the run is finished: a finished one is not written to any more
    if left == 0:
        work.writer.end()
        finish(work.run)
    return {"open_rows": left}


def make_ledger(work: Work) -> None:
    """Where it is missing, as on a machine that finds a finished run in a bucket: what is read of runs is here."""
    from flows.price_list import listed_prices
    from serving.store.ledger import FILE, write_ledger

    runs = work.run.folder.parent
    if not (runs / FILE).exists():
        write_ledger(runs, listed_prices())
