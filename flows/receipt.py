"""The receipt: what a run did and cost, read from the ledger and nothing else, so that it cannot differ from it."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flows.limits import StopReason
from flows.promises import promises
from flows.terminal import in_columns
from serving.store.bucket import name_of
from serving.store.run import Run
from serving.store.sealed import Corrupt

if TYPE_CHECKING:
    import duckdb

COUNTS = """
SELECT rows_in, refused, answered, failed, rows_in - refused - answered - failed AS expired,
       usd, rows_usd, overhead_usd, usd_per_hour, price_source, price_as_of
FROM runs JOIN bills USING (run_id) WHERE run_id = $run
"""
SOURCES = "SELECT source, count(*) AS rows FROM rows WHERE run_id = $run GROUP BY source"
VETOED = "SELECT count(*) AS pairs FROM pairs WHERE run_id = $run AND veto IS NOT NULL"
LANES = """
SELECT lanes.*, at_full.full_usd
FROM lanes
LEFT JOIN (SELECT run_id, lane, sum(full_usd) AS full_usd FROM rows_at_full_rates
           WHERE source = 'engine' GROUP BY run_id, lane) AS at_full USING (run_id, lane)
WHERE run_id = $run ORDER BY lane
"""
OVERHEADS = """
SELECT kind, count(*) AS times, sum(seconds) AS seconds, sum(usd) AS usd, sum(tokens) AS tokens
FROM overheads WHERE run_id = $run GROUP BY kind
"""
BASELINE = "SELECT usd FROM baselines WHERE run_id = $run"
SAVINGS = "SELECT step, saved_usd, known FROM savings WHERE run_id = $run ORDER BY place, step"
PREDICTED = """
SELECT factor, made, predicted, low_90, high_90, measured, off
FROM reconciled WHERE run_id = $run AND factor IN ('usd', 'near_saved_usd')
"""
LEAST_SHOWN_USD = 0.0000005
EXIT_CODES = {StopReason.BUDGET: 3, StopReason.DEADLINE: 3, StopReason.INTERRUPTED: 130}


@dataclass(frozen=True, slots=True)
class Receipt:
    run: Run
    stopped: StopReason
    counts: dict[str, Any]
    sources: dict[str, int]
    vetoed_pairs: int
    promises: list[str]  # what is certain of rows that the full model did not run
    lanes: list[dict[str, Any]]
    overheads: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline_usd: Decimal | None = None  # None where it cannot be estimated
    savings: list[dict[str, Any]] = field(default_factory=list)
    predicted: list[dict[str, Any]] = field(default_factory=list)  # the bill, and what near-duplicates save of it

    @property
    def exit_code(self) -> int:
        if self.counts["expired"]:
            return EXIT_CODES.get(self.stopped, 3)
        return 1 if self.counts["failed"] else 0

    def __str__(self) -> str:
        return "\n".join([*_head(self), "", *_rows(self), "", *_lanes(self), "", *_money(self), "", *_next(self)])


def take_receipt(run: Run, stopped: StopReason) -> Receipt:
    from serving.store.ledger import open_ledger

    with open_ledger(run.folder.parent, only=run) as ledger:
        for unread in _ask(ledger, "SELECT reason FROM unreadable WHERE run_id = $run", run):
            raise Corrupt(unread["reason"])
        baseline = _ask(ledger, BASELINE, run)
        return Receipt(
            run=run,
            stopped=stopped,
            counts=_ask(ledger, COUNTS, run)[0],
            sources={found["source"]: found["rows"] for found in _ask(ledger, SOURCES, run)},
            vetoed_pairs=_ask(ledger, VETOED, run)[0]["pairs"],
            promises=promises(ledger, run),
            lanes=_ask(ledger, LANES, run),
            overheads={found["kind"]: found for found in _ask(ledger, OVERHEADS, run)},
            baseline_usd=baseline[0]["usd"] if baseline else None,
            savings=_ask(ledger, SAVINGS, run),
            predicted=_ask(ledger, PREDICTED, run),
        )


def _ask(ledger: "duckdb.DuckDBPyConnection", sql: str, run: Run) -> list[dict[str, Any]]:
    found = ledger.execute(sql, {"run": run.run_id})
    names = [column[0] for column in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _head(receipt: Receipt) -> list[str]:
    state = "finished" if not receipt.counts["expired"] else f"stopped ({receipt.stopped})"
    return [f"gristmill  {receipt.run.run_id}  {state}"]


def _rows(receipt: Receipt) -> list[str]:
    counts, sources = receipt.counts, receipt.sources
    total = (
        f"{counts['answered']} answered + {counts['refused']} refused + {counts['failed']} failed"
        f" + {counts['expired']} expired"
    )
    exact, near = sources.get("exact", 0), sources.get("semantic", 0)
    lines = [
        f"  rows in     {counts['rows_in']:>6} = {total}",
        f"  collapsed   {exact + near:>6} = {exact} exact duplicates + {near} near-duplicates"
        f" ({receipt.vetoed_pairs} near pairs vetoed)",
    ]
    lines += [f"              {line}" for line in [*receipt.promises, *_near_saved(receipt), *_did_not_pay(receipt)]]
    if earlier := sources.get("earlier", 0):
        lines.append(f"  earlier     {earlier:>6} answered by earlier runs, and paid for there")
    return lines


def _near_saved(receipt: Receipt) -> list[str]:
    return [
        f"near-duplicates were expected to save ${told['predicted']:.6f} if certified, embedding taken off;"
        f" they saved ${told['measured']:.6f} (estimated)".replace("$-", "-$")
        for told in receipt.predicted
        if told["factor"] == "near_saved_usd"
    ]


def _did_not_pay(receipt: Receipt) -> list[str]:
    """Whether it cost more to look for near-duplicates than they saved; not known while rows are open."""
    embedding = receipt.overheads.get("embedding")
    if embedding is None or receipt.baseline_usd is None or receipt.counts["expired"]:
        return []
    saved = next((step["saved_usd"] for step in receipt.savings if step["step"] == "near-duplicates"), Decimal(0))
    if saved >= embedding["usd"]:
        return []
    cost = f"embedding cost ${embedding['usd']:.6f}, and they saved ${saved:.6f} (estimated)"
    return [f"near-duplicates did not pay: {cost}; [reuse] semantic = false is cheaper here"]


def _lanes(receipt: Receipt) -> list[str]:
    if not receipt.lanes:
        return ["  no lane ran"]
    heading = ("lane", "ran", "prompt tok", "cached", "output tok", "start-up s", "engine s", "output tok/s", "usd")
    rows = [heading, *(_lane_cells(lane) for lane in receipt.lanes)]
    table = [f"  {line}" for line in in_columns(rows, [False, *[True] * (len(heading) - 1)])]
    models = [f"  {lane['lane']}: {lane['model']}{_verdict(receipt, lane)}" for lane in receipt.lanes]
    return [*table, *models]


def _lane_cells(lane: dict[str, Any]) -> tuple[str, ...]:
    seconds = lane["engine_s"]
    pace = f"{lane['completion_tokens'] / seconds:.0f}" if seconds else "-"
    tokens = (str(lane[name]) for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
    return (
        lane["lane"], str(lane["rows_run"]), *tokens, f"{lane['start_up_s']:.1f}", f"{seconds:.1f}", pace,
        f"{lane['rows_usd'] + lane['start_up_usd']:.6f}",
    )  # fmt: skip


def _verdict(receipt: Receipt, lane: dict[str, Any]) -> str:
    """Whether a lane beside the full one paid here: its rows' cost against the same tokens at the full lane's rates."""
    if lane["lane"] == "full" or not lane["full_usd"] or not lane["rows_usd"]:
        return ""
    at_full, actual = lane["full_usd"], lane["rows_usd"]
    speed = f"{at_full / actual:.2f}x the full lane's speed on the same tokens (estimated)"
    if actual + lane["start_up_usd"] < at_full:
        return f"  paid: {speed}, its own start-up included"
    if actual < at_full:
        return f"  did not pay: {speed}, but its start-up of ${lane['start_up_usd']:.6f} cost more than it saved"
    return f'  did not pay on this machine: {speed}; [route] to_quantized = "none" is cheaper here'


def _money(receipt: Receipt) -> list[str]:
    counts = receipt.counts
    parts = [f"rows {counts['rows_usd']:.6f}"]
    parts += [f"{kind.replace('_', '-')} {line['usd']:.6f}" for kind, line in sorted(receipt.overheads.items())]
    rate = f"${counts['usd_per_hour'].normalize():f} an hour" if counts["usd_per_hour"] is not None else "by tokens"
    lines = [
        f"  spent     ${counts['usd']:.6f} = {' + '.join(parts)}",
        *_waste(receipt),
        *_predicted(receipt),
        f"            price: {rate}, {counts['price_source']} ({counts['price_as_of']})",
    ]
    if receipt.baseline_usd is None:
        return [*lines, "  baseline  not known: the full lane ran nothing in this run"]
    baseline = receipt.baseline_usd
    saved = baseline - counts["usd"]
    share = f", {saved / baseline * 100:+.0f} %" if baseline else ""
    return [
        *lines,
        f"  baseline  ${baseline:.6f} estimated: every row in the full lane at its rates here, no answer reused",
        f"  saved     ${saved:+.6f}{share}, of which".replace("$+", "$").replace("$-", "-$"),
        *(
            f"            {step['saved_usd']:+.6f}  {step['step']}"
            for step in receipt.savings
            if abs(step["saved_usd"]) >= LEAST_SHOWN_USD
        ),
    ]


def _predicted(receipt: Receipt) -> list[str]:
    when = {"plan": "before it ran", "pilot": "after its first rows"}
    served = any(step["step"] == "near-duplicates" for step in receipt.savings)
    counted = ", the near-duplicates counted as if they had run" if served else ""
    return [
        f"            expected {when[told['made']]}: ${told['predicted']:.6f}"
        f" ({told['low_90']:.6f} to {told['high_90']:.6f}), it was {told['off']:+.1%}{counted}"
        for told in sorted(receipt.predicted, key=lambda told: list(when).index(told["made"]))
        if told["factor"] == "usd"
    ]


def _waste(receipt: Receipt) -> list[str]:
    if (waste := receipt.overheads.get("waste")) is None:
        return []
    stops = f"{waste['times']} stop{'s' * (waste['times'] > 1)}"
    return [f"            waste: {waste['tokens']} tokens and {waste['seconds']:.1f} s of engine time, lost in {stops}"]


def _next(receipt: Receipt) -> list[str]:
    run_id = receipt.run.run_id
    lines = [
        f"  answers   {name_of(receipt.run.export / 'results.jsonl')}",
        f"  errors    {name_of(receipt.run.export / 'errors.jsonl')}",
        f"  ledger    {receipt.run.folder.parent / 'ledger.duckdb'}",
        "  next      gristmill costs by-lane",
    ]
    if receipt.counts["expired"]:
        lines[-1] = f"  next      run the same command again: it resumes {run_id}"
    elif receipt.counts["failed"]:
        lines[-1] = "  next      gristmill costs failures"
    return lines
