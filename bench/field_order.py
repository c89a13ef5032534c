"""What a template's order of fields is worth: proposed from statistics, then counted on the rows themselves.

    python bench/field_order.py [--rows 2000]

The table is made up, shaped like a shop's reviews: a review that no other row has stands before what many share.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean

from optimizer.field_order import Column, Proposal, counted, propose

TEMPLATE = ("review", "reviewer", "product", "description", "brand", "category")


def main() -> int:
    parser = argparse.ArgumentParser(description="What a template's order of fields is worth.")
    parser.add_argument("--rows", type=int, default=2000)
    rows = made(parser.parse_args().rows)
    columns = [
        Column(name, len({row[name] for row in rows}), fmean(len(row[name].split()) for row in rows))
        for name in TEMPLATE
    ]
    print(f"{len(rows)} rows; hit share of the fields' words, expected and counted after sorting")
    for how, proposal in (
        ("statistics", propose(columns, len(rows))),
        ("counting", propose(columns, len(rows), counted(rows))),
    ):
        show(how, proposal, rows)
    return 0


def show(how: str, proposal: Proposal, rows: Sequence[Mapping[str, str]]) -> None:
    before, after = found(rows, TEMPLATE), found(rows, proposal.fields)
    print(f"by {how}: {', '.join(proposal.fields)}")
    print(f"  as given: expected {proposal.hit_share_before:.3f}, counted {before:.3f}")
    print(f"  proposed: expected {proposal.hit_share:.3f}, counted {after:.3f}")


def found(rows: Sequence[Mapping[str, str]], fields: Sequence[str]) -> float:
    """The words of each row that it shares with the one before it, when rows are sorted by their fields."""
    ordered = sorted(tuple(row[name] for name in fields) for row in rows)
    hits = total = 0
    last: tuple[str, ...] = ()
    for row in ordered:
        same = [one == other for one, other in zip(row, last, strict=False)]
        alike = len(next((list(run) for alike, run in groupby(same) if alike and same[0]), []))
        hits += sum(len(value.split()) for value in row[:alike])
        total += sum(len(value.split()) for value in row)
        last = row
    return hits / total


def made(count: int) -> list[dict[str, str]]:
    draw = random.Random(0)
    products = []
    for number in range(120):
        brand = draw.randrange(15)
        names = {"product": f"product {number}", "brand": f"brand {brand}", "category": f"category {brand % 5}"}
        products.append({**names, "description": text(draw, 60)})
    return [
        {**draw.choice(products), "review": text(draw, 40), "reviewer": f"person {draw.randrange(600)}"}
        for _ in range(count)
    ]


def text(draw: random.Random, words: int) -> str:
    return " ".join(f"w{draw.randrange(5000)}" for _ in range(words))


if __name__ == "__main__":
    sys.exit(main())
