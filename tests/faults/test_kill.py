"""A job that is killed again and again: nothing lost, nothing twice, every dollar booked once."""

import random
import time
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.cli.command import Place, kill, row, wait_until
from tests.faults.files import books

PROMPTS = 16_000
KILLS = 15
PACE = ("--set", "engine.echo_s=0.0002")  # 1,024 answers become durable at a time, so some three times a second


def prompts() -> list[dict[str, Any]]:
    """Every tenth asks what the one before it asked."""
    return [row(f"id-{n}", f"prompt number {n - 1 if n % 10 == 9 else n}") for n in range(PROMPTS)]


def run_and_kill(place: Place, after_s: float) -> None:
    """Kill a run some time after its first answer; `kill` sees that it died of that."""
    spent = place.folder / "spent.jsonl"
    was_bytes = spent.stat().st_size if spent.exists() else 0
    process = place.start("--quiet", *PACE, "--set", f"engine.echo_audit={spent}")
    wait_until(lambda: spent.exists() and spent.stat().st_size > was_bytes, process)
    time.sleep(after_s)
    kill(process)


def test_fifteen_kills_lose_nothing_double_nothing_and_book_every_dollar_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.job()
    place.prompts(prompts())
    moments = random.Random(15)
    settled = []
    for _ in range(KILLS):
        run_and_kill(place, after_s=moments.uniform(0.0, 0.6))
        settled.append(place.durable_rows)
    assert sum(later > earlier for earlier, later in pairwise(settled)) >= 3, "some kills came after rows were settled"
    assert place.gristmill("verify").code == 0

    assert place.run().code == 0
    assert place.answers() == {line["custom_id"]: line["body"]["messages"][0]["content"] for line in prompts()}
    assert place.errors == []
    assert place.gristmill("verify").code == 0
    (bill,) = place.ask("SELECT usd::VARCHAR AS usd, answered FROM bills")
    assert (Decimal(bill["usd"]), bill["answered"]) == (books(place.only_run).usd, PROMPTS)
    (waste,) = place.ask("SELECT count(*) AS lines FROM overheads WHERE kind = 'waste' AND usd > 0")
    assert waste["lines"] >= 3  # what the kills threw away is shown
