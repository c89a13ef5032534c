"""What must hold of a run that has been resumed to its end, whatever befell it on the way. One line a violation."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from tests.faults.files import Books, Committed, books, contents, only_run, read_jsonl, spent_lines
from tests.faults.jobs import RUN, VERIFY, End, Job
from tests.faults.process import Ended, Launch

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 130}
LEFTOVERS = (".writing", ".journal", ".wal", ".tmp")


def broken(job: Job, before: list[Committed], crashes: int, slack_rows: int = 0) -> list[str]:
    """P1 to P5, of the files. `before` is what was durable at each crash.

    `slack_rows` is how many rows may have been spent on without a trace, where kills come between two instructions.
    """
    run = only_run(job.runs)
    if run is None:
        return ["P1: there is no run"]
    found = books(run)
    return [
        *_outcomes(job, run),
        *_money(job, run, found),
        *_spending(job, found, crashes, slack_rows),
        *(line for then in before for line in _kept(found, then)),
        *_leftovers(job.runs),
    ]


def end_and_check(
    job: Job, launch: Launch, before: list[Committed], crashes: int, slack_rows: int = 0, rerun: bool = True
) -> list[str]:
    """Resume a run to its end, then hold it to every law: of its files, of `verify`, of a `rerun` that does nothing."""
    ended = launch(job.start())
    if ended.code != expected_code(job):
        return [f"resume ended with {ended.code}: {ended.err.strip()[-600:]}"]
    return [*broken(job, before, crashes, slack_rows), *(check_rest(job, launch) if rerun else [])]


def check_rest(job: Job, launch: Launch) -> list[str]:
    """`verify` agrees, and a rerun changes no byte and makes no engine call."""
    was, spent = contents(job.runs), spent_lines(job.audit)
    ended = launch(job.start(VERIFY, RUN))
    violations = []
    if ended.code != expected_code(job):
        violations.append(f"P6: verify and rerun ended with {ended.code}: {ended.err.strip()[-300:]}")
    if changed := sorted({name for name, _ in contents(job.runs).items() ^ was.items()}):
        violations.append(f"P6: a rerun changed {', '.join(changed)}")
    if spent_lines(job.audit) != spent:
        violations.append("P6: a rerun called the engine")
    return violations


def expected_code(job: Job) -> int:
    """1 where a row failed."""
    return 1 if any(row.expected.end is End.FAILED for row in job.rows) else 0


def ill_mannered(ended: Ended) -> list[str]:
    """A process that was not killed ends with a documented code, in time, and without a traceback."""
    violations = []
    if ended.timed_out:
        violations.append("hung")
    elif ended.code not in DOCUMENTED:
        violations.append(f"ended with {ended.code}, which no document lists: {ended.err.strip()[-300:]}")
    if ended.traceback:
        violations.append(f"showed a traceback: {ended.err.strip()[-600:]}")
    return violations


def _outcomes(job: Job, run: Path) -> Iterator[str]:
    """P1 conservation, P2 uniqueness, P3 binding."""
    answers, errors = (read_jsonl(run / "export" / f"{name}.jsonl") for name in ("results", "errors"))
    ids = Counter(line["custom_id"] for line in (*answers, *errors))
    wanted = Counter(row.custom_id for row in job.rows)
    if len(answers) + len(errors) != len(job.rows):
        yield f"P1: {len(job.rows)} rows in, {len(answers)} answers and {len(errors)} errors out"
    if ids != wanted:
        yield f"P2: lost {sorted((wanted - ids).elements())[:5]}, too many {sorted((ids - wanted).elements())[:5]}"
    for line in answers:
        words, used = len(_text(line).split()), line["response"]["body"]["usage"]
        counted = (used["completion_tokens"], used["prompt_tokens_details"]["cached_tokens"])
        if counted != (words, 0):
            yield f"P3: {line['custom_id']} is {words} words, but (completion, cached) tokens are {counted}"
    ends = {line["custom_id"]: (End.ANSWERED, _text(line)) for line in answers}
    ends |= {line["custom_id"]: (_end(line["error"]["code"]), "") for line in errors}
    for expected in (row.expected for row in job.rows):
        if expected.custom_id in ends and ends[expected.custom_id] != (expected.end, expected.answer):
            yield f"P3: {expected.custom_id} is {ends[expected.custom_id]}, should be {expected.end} {expected.answer}"


def _text(line: dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def _end(code: str) -> End | str:
    if code == "E_ECHO":
        return End.FAILED
    return End.REFUSED if code.startswith("E_") else code


def _money(job: Job, run: Path, found: Books) -> Iterator[str]:
    """P4: every row is charged once, nothing is below zero, and the parts add up to the bill."""
    twice = [row for row, times in Counter(row["row"] for row in found.rows).items() if times > 1]
    if twice:
        yield f"P4: rows {twice[:5]} are charged twice"
    money = [row["usd"] for row in found.rows] + [Decimal(line["usd"]) for line in found.overheads]
    if any(usd < 0 for usd in money) or any(line["seconds"] < 0 for line in found.overheads):
        yield "P4: money or time below zero"
    by_run = {row["row"] for row in found.rows if row["source"] == "engine"}
    if any(row["usd"] for row in found.rows if row["row"] not in by_run):
        yield "P4: a row that shares an answer is charged"
    if not (job.runs / "ledger.duckdb").exists():
        yield "P4: the ledger was never written"
        return
    with duckdb.connect(str(job.runs / "ledger.duckdb"), read_only=True) as ledger:
        bill = ledger.execute("SELECT usd FROM bills WHERE run_id = ?", [run.name]).fetchall()
    if [usd for (usd,) in bill] != [found.usd]:
        yield f"P4: the bill is {bill}, the segments add up to {found.usd}"


def _spending(job: Job, found: Books, crashes: int, slack_rows: int) -> Iterator[str]:
    """P4 against the auditor: what was spent is what was committed and what is shown as waste, to the token."""
    lines = spent_lines(job.audit)
    spent = sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines)
    wasted = spent - found.committed_tokens
    again = len(lines) - sum(row["source"] == "engine" for row in found.rows)
    most = max((line["prompt_tokens"] + line["completion_tokens"] for line in lines), default=0)
    if wasted < 0 or again < 0:
        yield f"P4: {found.committed_tokens} tokens are billed, {spent} were spent"
    if again > crashes * job.window_rows:
        yield f"P4: {again} rows were run again after {crashes} crashes; at most {job.window_rows} are at risk in each"
    shown = found.wasted_tokens
    if shown is not None and not 0 <= wasted - shown <= slack_rows * most:
        yield f"P4: {wasted} tokens were thrown away, {shown} are shown"


def _kept(found: Books, then: Committed) -> Iterator[str]:
    """P5: what was durable is as it was."""
    now = {row["row"]: row for row in found.rows}
    for number, row in then.sealed.items():
        if now.get(number) != row:
            yield f"P5: row {number} was sealed as {row}, is {now.get(number)}"
    for number, columns in then.journaled.items():
        if now.get(number) != columns:
            yield f"P5: row {number} was in the journal as {columns}, is {now.get(number)}"


def _leftovers(runs: Path) -> Iterator[str]:
    left = [str(file.relative_to(runs)) for file in runs.rglob("*") if file.name.endswith(LEFTOVERS)]
    if left:
        yield f"left behind: {', '.join(left)}"
