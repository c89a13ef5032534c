"""What earlier runs have answered already: taken over by exact key, and charged nothing.

It is decided once, and copied in the same step: whatever becomes of an earlier run, this one rests on its own folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.admit import interrupted
from flows.members import Members, Rows, done_rows
from flows.open import Work
from flows.scope import answering
from flows.settled_rows import earlier_rows
from flows.stages import keyed
from optimizer.collapse import NOWHERE, Keys, first_equal
from serving.records import Outcome, Source
from serving.store.parts import Manifest, PartWriter, read_manifest
from serving.store.run import Run, all_runs
from serving.store.schemas import EARLIER, MEMBERS, USED
from serving.store.sealed import Corrupt
from serving.store.segments import Span, read_rows
from serving.store.verify import verify

Figures = dict[str, Any]
CHAIN = "earlier"
READ = ["row", "outcome", "lane", "source", "choices", *USED]
# An answer to this very request. One to a near-duplicate holds under the certificate of its own run alone.
TO_ITS_OWN_KEY = pa.array([Source.ENGINE.value, Source.EXACT.value, Source.EARLIER.value])


@dataclass(slots=True)
class Wanted:
    """Requests that have no answer yet, each the first with its key."""

    rows: Rows
    keys: Keys
    taken: NDArray[np.bool_]


def take_earlier(work: Work) -> Figures:
    """Which requests has an earlier run answered? What is decided, and not settled yet, is settled."""
    if not (work.job.reuse.exact and work.job.reuse.earlier):
        return {}
    decided = read_manifest(work.run.earlier) or _decide(work)
    _settle(work, decided)
    return decided.figures


def _decide(work: Work) -> Manifest:
    parts = PartWriter(work.run.earlier.parent, "earlier", {"earlier": EARLIER})
    taken = 0
    for table in _given(work):
        parts.add_table("earlier", table)
        taken += table.num_rows
    if taken:
        work.progress.say(f"{taken} requests were answered by earlier runs, and cost nothing here")
    return parts.finish({"requests": taken})


def _given(work: Work) -> Iterator[pa.Table]:
    """What other runs have of what this one wants; no more of one whose files are not what was written, or are gone."""
    if not (alike := _alike(work)):
        return
    wanted = _wanted(work)
    for run in alike:
        if wanted.taken.all():
            return
        try:
            yield from _answers(work, run, wanted)
        except (Corrupt, OSError) as fault:
            _say_skipped(work, run, fault)


def _alike(work: Work) -> list[Run]:
    """The other runs that would answer as this one does, the latest first."""
    ours, found = answering(work.run.facts), []
    for run in all_runs(work.run.folder.parent):
        if run.run_id == work.run.run_id:
            continue
        try:
            facts = run.facts
        except (Corrupt, OSError) as fault:
            _say_skipped(work, run, fault)
            continue
        if answering(facts) == ours:
            found.append((facts["created_unix_s"], run.run_id, run))
    return [run for *_, run in sorted(found, reverse=True)]


def _wanted(work: Work) -> Wanted:
    found = keyed(work.run)
    equals = work.run.stage(work.run.collapsed).read("members", MEMBERS, ["equals"])["equals"].to_numpy()
    asked = found.repeatable & (equals == found.rows) & ~np.isin(found.rows, done_rows(work))
    return Wanted(found.rows[asked], found.keys[asked], np.zeros(int(asked.sum()), np.bool_))


def _answers(work: Work, run: Run, wanted: Wanted) -> Iterator[pa.Table]:
    admitted = read_manifest(run.admitted)
    if admitted is None:
        return
    for part in admitted.parts:
        part.witness.check(admitted.folder / part.name)
    theirs = keyed(run)
    place = first_equal(theirs.keys, wanted.keys)
    same = place != NOWHERE
    rows, place = theirs.rows[same], place[same]
    if wanted.taken[place].all():
        return
    verify(run)  # all of it, and only of a run that something is taken from
    for table in read_rows(run.segments, READ):
        if interrupted(work):
            raise KeyboardInterrupt
        answered = table.filter(
            (pc.field("outcome") == Outcome.ANSWERED.value)
            & (pc.field("lane") == "full")
            & pc.is_in(pc.field("source"), TO_ITS_OWN_KEY)
        )
        yield _taken(run, answered, rows, place, wanted)


def _taken(run: Run, answered: pa.Table, rows: Rows, place: Rows, wanted: Wanted) -> pa.Table:
    """Of these answers one for each request that wants it, as EARLIER; `rows` of the run want for those at `place`."""
    answered = answered.filter(pa.array(np.isin(answered["row"].to_numpy(), rows)))
    to = place[np.searchsorted(rows, answered["row"].to_numpy())]
    to, first = np.unique(to, return_index=True)
    new = ~wanted.taken[to]
    wanted.taken[to] = True
    given = answered.take(pa.array(first[new]))
    columns = {"row": wanted.rows[to[new]], "from_run": pa.repeat(run.run_id, given.num_rows), "from_row": given["row"]}
    return pa.table([columns[name] if name in columns else given[name] for name in EARLIER.names], schema=EARLIER)


def _settle(work: Work, decided: Manifest) -> None:
    done = done_rows(work)
    if np.isin(decided.read("earlier", EARLIER, ["row"])["row"].to_numpy(), done).all():
        return
    members, lane, chain = Members.of(work), work.job.lanes["full"], work.writer.chain(CHAIN)
    for part in decided.tables("earlier"):
        taken = part.filter(pa.array(~np.isin(part["row"].to_numpy(), done)))
        if taken.num_rows:
            chain.seal(Span(earlier_rows(taken, lane, members)))


def _say_skipped(work: Work, run: Run, fault: Exception) -> None:
    work.progress.say(f"no answer is taken from {run.run_id}: {fault}")
