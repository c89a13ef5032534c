"""A job that is killed again and again: nothing lost, nothing twice, every dollar booked once."""

import json
import random
import time
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.cli.command import Place, kill, row, wait_until

PROMPTS = 4000
KILLS = 15
PACE = ("--set", "engine.echo_s=0.001")  # a segment is sealed every 256 answers, so some three times a second


def prompts() -> list[dict[str, Any]]:
    """Every tenth asks what the one before it asked."""
    return [row(f"id-{n}", f"prompt number {n - 1 if n % 10 == 9 else n}") for n in range(PROMPTS)]


def run_and_kill(place: Place, after_s: float) -> None:
    """Kill a run some time after it has taken the lock; `kill` sees that it died of that."""
    began_ns = time.time_ns()
    process = place.start("--quiet", *PACE)
    wait_until(lambda: any(lock.stat().st_mtime_ns > began_ns for lock in place.folder.glob("runs/*/lock")), process)
    time.sleep(after_s)
    kill(process)


def booked(run: Path) -> Decimal:
    """Every charge of every sealed row and every overhead, added up from the files alone."""
    total = Decimal(0)
    for manifest in (run / "segments").glob("*.json"):
        total += sum(pq.read_table(manifest.with_suffix(".parquet"))["usd"].to_pylist(), Decimal(0))
        total += sum((Decimal(line["usd"]) for line in json.loads(manifest.read_text())["overheads"]), Decimal(0))
    return total


def test_fifteen_kills_lose_nothing_double_nothing_and_book_every_dollar_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.job()
    place.prompts(prompts())
    moments = random.Random(15)
    sealed = []
    for _ in range(KILLS):
        run_and_kill(place, after_s=moments.uniform(0.0, 0.8))
        sealed.append(len(place.segments))
    assert sum(later > earlier for earlier, later in pairwise(sealed)) >= 3, "some kills came after a new segment"
    assert place.gristmill("verify").code == 0

    assert place.run().code == 0
    assert place.answers() == {line["custom_id"]: line["body"]["messages"][0]["content"] for line in prompts()}
    assert place.errors == []
    assert place.gristmill("verify").code == 0
    (bill,) = place.ask("SELECT usd::VARCHAR AS usd, answered FROM bills")
    assert (Decimal(bill["usd"]), bill["answered"]) == (booked(place.only_run), PROMPTS)
    (waste,) = place.ask("SELECT count(*) AS lines FROM overheads WHERE kind = 'waste' AND usd > 0")
    assert waste["lines"] >= 3  # what the kills threw away is shown
