"""How long the search for a plan takes: all that can be rented, priced by its steady state, then a few played through.

python bench/plans.py [MODEL ...]
"""

import sys
import time
from collections import Counter

from flows.terminal import in_columns
from optimizer.catalogue.catalogue import gpu, machines, model
from optimizer.planner.calibration import shipped
from optimizer.planner.job import Job, TokenCounts, Wish
from optimizer.planner.offers import USUAL, cheapest
from optimizer.planner.search import desk_of, priced, search

MODELS = ("Llama-3.1-8B", "Qwen3-32B", "Llama-3.1-70B", "Mixtral-8x7B", "gpt-oss-120b", "DeepSeek-V3")
JOB = Job(
    1_000_000,
    TokenCounts.of_percentiles(600, {50: 450, 90: 1200, 99: 2500}),
    TokenCounts.of_percentiles(180, {50: 140, 90: 380, 99: 700}),
    acceptance=0.6,
)
WISH = Wish(deadline_s=4 * 3600, spot=True, weights=("bf16", "fp8", "w4a16"), kv_dtypes=("auto", "fp8"))


def main() -> int:
    known, offers = shipped(), cheapest(machines(), WISH)
    rows = [["model", "plans", "priced s", "10,000 plans s", "search s", "plan", "USD"]]
    for name in sys.argv[1:] or MODELS:
        shape = model(name).shape
        began = time.process_time()
        desk = desk_of(shape, JOB, WISH, offers, gpu, known, USUAL, Counter())
        count = len(priced(desk)) if desk is not None else 0
        priced_s = time.process_time() - began
        began = time.process_time()
        found = search(shape, JOB, WISH, machines(), gpu, calibration=known)
        search_s = time.process_time() - began
        chosen = found.chosen
        rows.append(
            [
                name,
                f"{count:,}",
                f"{priced_s:.2f}",
                f"{priced_s * 10_000 / max(count, 1):.2f}",
                f"{search_s:.2f}",
                chosen.plan.name if chosen else "nothing fits",
                f"{chosen.prediction.cost_usd.value:.2f}" if chosen else "",
            ]
        )
    print(*in_columns(rows, [False, True, True, True, True, False, True]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
