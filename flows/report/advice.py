"""What to change next, and what it would have saved of this run: each advice rests on a figure of the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from flows.report.figures import Figures

LEAST_SHARE = Decimal("0.01")  # of the bill: what would save less is not worth a change
START_UP_SHARE = Decimal("0.2")
CUT_OFF_SHARE = 0.05
LEAST_ACCEPTED = 0.3  # of guessed tokens, below which they seldom pay


@dataclass(frozen=True, slots=True)
class Advice:
    change: str
    because: str
    saves_usd: Decimal | None = None  # of this run's bill, had it been so; None where that is not known


def advice_for(figures: Figures) -> list[Advice]:
    """The one that saves most first; those without a figure after them."""
    found = [*_lanes(figures), *_near(figures), *_duplicates(figures), *_starts(figures), *_waste(figures)]
    bill = figures.receipt.counts["usd"]
    worth = [one for one in found if one.saves_usd is not None and one.saves_usd >= LEAST_SHARE * bill > 0]
    worth.sort(key=lambda one: one.saves_usd or Decimal(0), reverse=True)
    return [*worth, *_answers(figures), *_rows(figures), *_forecast(figures)]


def _lanes(figures: Figures) -> Iterator[Advice]:
    for lane in figures.receipt.lanes:
        if lane["lane"] == "full" or not lane["full_usd"]:
            continue
        lost = lane["rows_usd"] + lane["start_up_usd"] - lane["full_usd"]
        yield Advice(
            f'leave the {lane["lane"]} lane out: [route] to_quantized = "none"',
            f"its rows and start-up cost ${lane['rows_usd'] + lane['start_up_usd']:.6f}, and would have cost"
            f" ${lane['full_usd']:.6f} in the full lane",
            lost,
        )


def _near(figures: Figures) -> Iterator[Advice]:
    embedding = figures.receipt.overheads.get("embedding")
    if embedding is None:
        return
    near = (step["saved_usd"] for step in figures.receipt.savings if step["step"] == "near-duplicates")
    saved = sum(near, Decimal(0))
    yield Advice(
        "do not look for near-duplicates: [reuse] semantic = false",
        f"embedding cost ${embedding['usd']:.6f}, and they saved ${saved:.6f}",
        embedding["usd"] - saved,
    )


def _duplicates(figures: Figures) -> Iterator[Advice]:
    if figures.unshared["rows"]:
        yield Advice(
            "let equal rows share an answer: [reuse] exact = true",
            f"{figures.unshared['rows']} rows equal another one and were run all the same",
            figures.unshared["usd"],
        )


def _starts(figures: Figures) -> Iterator[Advice]:
    starts, bill = figures.receipt.overheads.get("start_up"), figures.receipt.counts["usd"]
    if starts is None or starts["usd"] < START_UP_SHARE * bill:
        return
    yield Advice(
        "put more rows into a job, or several files into one (dataset.path takes a glob)",
        f"{starts['times']} engine starts cost ${starts['usd']:.6f} of ${bill:.6f}, however many rows they serve",
        starts["usd"] / 2,
    )


def _waste(figures: Figures) -> Iterator[Advice]:
    if (waste := figures.receipt.overheads.get("waste")) is not None:
        yield Advice(
            "let runs end: a budget or a deadline that is reached with rows in flight throws these away",
            f"{waste['tokens']} tokens and {waste['seconds']:.1f} s of engine time were lost in {waste['times']} stops",
            waste["usd"],
        )


def _answers(figures: Figures) -> Iterator[Advice]:
    cut_off, answered = figures.cut_off["cut_off"], figures.cut_off["answered"]
    if answered and cut_off / answered > CUT_OFF_SHARE:
        yield Advice(
            "see whether answers end where they should: raise sampling.max_tokens, or ask for less",
            f"{cut_off} of {answered} answers were cut off at max_tokens ({cut_off / answered:.0%})",
        )
    for lane in figures.speculation:
        if lane["accepted"] < LEAST_ACCEPTED * lane["drafted"]:
            yield Advice(
                'try without speculation: [engine] speculation = "off"',
                f"of {lane['drafted']} guessed tokens {lane['accepted']} were right in the {lane['lane']} lane"
                f" ({lane['accepted'] / lane['drafted']:.0%})",
            )


def _rows(figures: Figures) -> Iterator[Advice]:
    counts = figures.receipt.counts
    if counts["refused"]:
        first = figures.refused[0]
        yield Advice(
            "mend the rows that were refused, and run the job again: what is answered is not paid for twice",
            f"{counts['refused']} of {counts['rows_in']} rows were refused, {first['rows']} of them as {first['code']}",
        )
    if counts["expired"]:
        yield Advice("run the same command again: it goes on where it stopped", f"{counts['expired']} rows are open")


def _forecast(figures: Figures) -> Iterator[Advice]:
    if not figures.predicted and figures.facts["job"]["engine"]["kind"] == "vllm":
        yield Advice(
            "have the next run foretold: `gristmill calibrate JOB.toml`, then `gristmill plan JOB.toml`",
            "no forecast of this run was made, so that none can be held against it",
        )
