"""A lane's requests in the order that the optimizer plans, from tables that memory need not hold.

The plan covers the whole lane. Requests are then laid out in stretches of it, and the last stretch, which decides how
the lane ends, is planned again when its turn comes, with the lengths of what has finished by then. The tables are read
twice: once for the plan, once to lay out.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.open import Work
from optimizer.order.external_sort import Spill
from optimizer.order.plan import prefix_longest
from optimizer.order.tree import Places, PrefixTree
from optimizer.output_lengths import UNKNOWN, expected_output_tokens
from serving.records import Outcome, Source
from serving.store.segments import read_rows

STRETCHES = 8  # at least, if a lane is large enough: what has finished before the last of them tells of it
STRETCH_ROWS, STRETCH_BYTES = (1024, 65_536), 64 * 2**20
MOST_STRETCHES = 256  # open files
IN_MEMORY_BYTES = 2**20  # of each of them, before it goes to disk
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


def finished_lengths(work: Work) -> Finished:
    """Of the rows that an engine has answered, as far as they are sealed."""
    rows, tokens = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in read_rows(work.run.segments, ["row", "source", "outcome", "completion_tokens"]):
        ran = table.filter(
            (pc.field("source") == Source.ENGINE.value) & (pc.field("outcome") == Outcome.ANSWERED.value)
        )
        rows.append(ran["row"].to_numpy())
        tokens.append(ran["completion_tokens"].to_numpy())
    return Finished(np.concatenate(rows), np.concatenate(tokens))


def in_order(
    read: Read,
    pending: Places,
    finished: Callable[[], Finished],
    output_tokens: Callable[[pa.ChunkedArray], Places],
    slots: int,
    columns: list[str],
    folder: Path,
) -> Iterator[pa.Table]:
    """The pending requests in the order to feed them, a few in each table.

    `finished` is asked again before the last stretch; `output_tokens` gives the most that samplings allow. What does
    not fit in memory goes to files in `folder` that vanish when they are closed, whatever ends us.
    """
    spill = partial(SpooledTemporaryFile, IN_MEMORY_BYTES, dir=folder)
    known = _known(read, np.union1d(pending, finished().row), output_tokens, spill)
    order = _planned(known, pending, finished(), slots)
    cuts = _cuts(known.size_bytes[np.searchsorted(known.row, order)])
    with ExitStack() as files:
        tables = _laid_out(read, order, cuts, columns, spill, files)
        for (start, stop), table in zip(pairwise([0, *cuts.tolist()]), tables, strict=True):
            rows = order[start:stop]
            if start and stop == len(order):
                rows = _planned(known, rows, finished(), slots)
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
    for at, size in enumerate(sizes.tolist()):
        if count and (count >= rows or filled + size > limit):
            ends.append(at)
            filled = count = 0
        filled, count = filled + size, count + 1
    return np.array([*ends, len(sizes)], np.int64)


def _laid_out(
    read: Read, order: Places, cuts: Places, columns: list[str], spill: Spill, files: ExitStack
) -> Iterator[pa.Table]:
    """The requests of each stretch, in the order of the input."""
    if len(cuts) == 1:
        yield pa.concat_tables(read(np.sort(order), columns))
        return
    by_row = np.argsort(order)
    rows = order[by_row]
    stretch_of_row = np.searchsorted(cuts, by_row, side="right").astype(np.int16)
    stretches = [files.enter_context(spill()) for _ in cuts]
    writers: list[pa.ipc.RecordBatchStreamWriter] = []
    for table in read(rows, columns):
        writers = writers or [pa.ipc.new_stream(file, table.schema) for file in stretches]
        at = stretch_of_row[np.searchsorted(rows, table["row"].to_numpy())]
        for stretch in np.unique(at).tolist():
            writers[stretch].write_table(table.filter(pa.array(at == stretch)))
    for writer in writers:
        writer.close()
    for file in stretches:
        file.seek(0)
        yield pa.ipc.open_stream(file).read_all()
        file.close()
