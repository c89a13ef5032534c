"""A lane's requests in the order that the optimizer plans, from tables that memory need not hold.

The plan covers the whole lane, or so much of it as memory may hold a plan of: a larger lane is planned in portions, in
the order of the input. Requests are then laid out in stretches of it, and the last stretch, which decides how the lane
ends, is planned again when its turn comes, with the lengths of what has finished by then. The tables are read twice:
once for the plan, once to lay out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.open import Work
from flows.spill import spill_to
from optimizer.order.external_sort import Spill
from optimizer.order.plan import prefix_longest
from optimizer.order.tree import Places, PrefixTree
from optimizer.output_lengths import UNKNOWN, expected_output_tokens
from serving.records import Outcome, Source
from serving.store.segments import read_rows
from serving.store.stretches import Stretches

STRETCHES = 8  # at least, if a lane is large enough: what has finished before the last of them tells of it
STRETCH_ROWS, STRETCH_BYTES = (1024, 65_536), 64 * 2**20
MOST_STRETCHES = 256
PORTION_ROWS = 2**20  # planned together: a plan takes some 200 bytes a row while it is made
TAKEN_ROWS = 256
ROW_BYTES = 200  # of a request beside its messages and tokens

Read = Callable[[Places, list[str]], Iterable[pa.Table]]  # the requests of these rows, in the order of the input


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of rows before they are fed, `row` ascending; some 40 bytes each."""

    row: Places
    tree: PrefixTree
    max_tokens: Places
    size_bytes: Places


@dataclass(frozen=True, slots=True)
class Finished:
    row: Places
    output_tokens: Places


def finished_lengths(work: Work, first: int = 0) -> Finished:
    """Of the rows from the `first` on that an engine has answered, as far as they are sealed."""
    rows, tokens = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in read_rows(work.run.segments, ["row", "source", "outcome", "completion_tokens"]):
        ran = table.filter(
            (pc.field("source") == Source.ENGINE.value)
            & (pc.field("outcome") == Outcome.ANSWERED.value)
            & (pc.field("row") >= first)
        )
        rows.append(ran["row"].to_numpy())
        tokens.append(ran["completion_tokens"].to_numpy())
    return Finished(np.concatenate(rows), np.concatenate(tokens))


def in_order(
    read: Read,
    pending: Places,
    finished: Callable[[int], Finished],
    output_tokens: Callable[[pa.ChunkedArray], Places],
    slots: int,
    columns: list[str],
    folder: Path,
) -> Iterator[pa.Table]:
    """The pending requests, which ascend, in the order to feed them, a few in each table.

    `finished` tells of rows from a first one on, and is asked again before the last stretch; `output_tokens` gives the
    most that samplings allow. What does not fit in memory goes to files in `folder` that vanish when they are closed,
    whatever ends us.
    """
    if not len(pending):
        return
    portions = np.array_split(pending, -(-len(pending) // PORTION_ROWS))
    done = finished(0)
    portion_of_done = np.searchsorted([portion[0] for portion in portions[1:]], done.row, side="right")
    for place, portion in enumerate(portions):
        here = portion_of_done == place
        before = Finished(done.row[here], done.output_tokens[here])
        last = finished if place == len(portions) - 1 else None
        yield from _portion_in_order(read, portion, before, last, output_tokens, slots, columns, spill_to(folder))


def _portion_in_order(
    read: Read,
    pending: Places,
    before: Finished,
    by_then: Callable[[int], Finished] | None,
    output_tokens: Callable[[pa.ChunkedArray], Places],
    slots: int,
    columns: list[str],
    spill: Spill,
) -> Iterator[pa.Table]:
    """`before` is what of it has finished; `by_then`, where the lane ends with it, before its last stretch."""
    known = _known(read, np.union1d(pending, before.row), output_tokens, spill)
    order = _planned(known, pending, before, slots)
    cuts = _cuts(known.size_bytes[np.searchsorted(known.row, order)])
    tables = _laid_out(read, order, cuts, columns, spill)
    for (start, stop), table in zip(pairwise([0, *cuts.tolist()]), tables, strict=True):
        rows = order[start:stop]
        if by_then is not None and start and stop == len(order):
            rows = _planned(known, rows, by_then(int(known.row[0])), slots)
        by_row = np.argsort(table["row"].to_numpy())
        place = by_row[np.searchsorted(table["row"].to_numpy()[by_row], rows)]
        table = table.combine_chunks()
        for at in range(0, len(place), TAKEN_ROWS):
            yield table.take(pa.array(place[at : at + TAKEN_ROWS]))


def _known(read: Read, rows: Places, output_tokens: Callable[[pa.ChunkedArray], Places], spill: Spill) -> Known:
    max_tokens, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]

    def prompts() -> Iterator[pa.ListArray]:
        for part in read(rows, ["row", "messages", "sampling", "prompt_token_ids"]):
            max_tokens.append(output_tokens(part["sampling"]))
            ids = pc.fill_null(pc.list_value_length(part["prompt_token_ids"]), 0).to_numpy()
            sizes.append(pc.binary_length(part["messages"]).to_numpy() + 4 * ids.astype(np.int64) + ROW_BYTES)
            yield from part["prompt_token_ids"].chunks

    tree = PrefixTree.of_columns(prompts(), spill)
    return Known(rows, tree, np.concatenate(max_tokens), np.concatenate(sizes))


def _planned(known: Known, rows: Places, finished: Finished, slots: int) -> Places:
    """These rows in the order of a plan of their own; what nothing tells apart stays as it is."""
    observed = np.full(len(known.row), UNKNOWN)
    place = np.searchsorted(known.row, finished.row)
    there = place < len(known.row)
    there[there] = known.row[place[there]] == finished.row[there]
    observed[place[there]] = finished.output_tokens[there]
    places = np.searchsorted(known.row, rows)
    expected = expected_output_tokens(known.tree, known.max_tokens, observed)[places]
    return rows[prefix_longest(known.tree.of(places), expected, slots)]


def _cuts(sizes: Places) -> Places:
    """Where stretches end, in rows of the plan: by how many they are, or by their bytes where rows are large."""
    least, most = STRETCH_ROWS
    rows = min(max(-(-len(sizes) // STRETCHES), least), most)
    rows = max(rows, -(-len(sizes) // MOST_STRETCHES))
    limit = max(STRETCH_BYTES, 2 * int(sizes.sum()) // MOST_STRETCHES)
    ends, filled, count = [], 0, 0
    for at, size in enumerate(map(int, sizes)):
        if count and (count >= rows or filled + size > limit):
            ends.append(at)
            filled = count = 0
        filled, count = filled + size, count + 1
    return np.array([*ends, len(sizes)], np.int64)


def _laid_out(read: Read, order: Places, cuts: Places, columns: list[str], spill: Spill) -> Iterator[pa.Table]:
    """The requests of each stretch, in the order of the input."""
    if len(cuts) == 1:
        yield pa.concat_tables(read(np.sort(order), columns))
        return
    by_row = np.argsort(order)
    rows = order[by_row]
    stretch_of_row = np.searchsorted(cuts, by_row, side="right").astype(np.int16)
    with spill() as file:
        stretches = Stretches(file)
        for table in read(rows, columns):
            stretches.add(table, stretch_of_row[np.searchsorted(rows, table["row"].to_numpy())])
        del by_row, rows, stretch_of_row
        for stretch in range(len(cuts)):
            found = stretches.read(stretch)
            assert found is not None, "a stretch has a row at least"
            yield found
