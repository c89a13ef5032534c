"""What more replicas of an engine bring on a Ray cluster, and how long they idle at the end: the double, paced.

    python bench/replicas.py [--replicas 1,2,4,8,16] [--rows 200] [--answer-s 0.1] [--slots 1]

Each replica is a process of its own that answers a row at a time and takes so long for it, so that all that is lost is
lost on the way to it and back. Every count gets `--rows` rows for each replica, on a cluster that is started for it and
gone afterwards. Linear is what one replica does, times their number; idle is the mean of what is left of the run when a
replica has told its last answer. With `--answer-s 0` and some hundred slots it is how many rows a second can be fed to
a cluster from one process. Adds raw figures to bench/results/replicas.csv.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from flows.cluster import CALLS_AT_ONCE, Leaving, RayReplica
from serving.config import EngineSection
from serving.engine_config import NO_ADAPTERS
from serving.engines.fleet import Fleet
from serving.engines.machine import this_machine
from serving.engines.replica_host import Order, ReplicaHost, Told
from serving.records import Endpoint, Lane, Message, Request, Sampling
from serving.store.meter import Meter

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

RESULTS = Path(__file__).parent / "results" / "replicas.csv"


@dataclass(frozen=True, slots=True)
class Ran:
    replicas: int
    rows: int
    answer_s: float
    slots: int
    seconds: float
    idle_share: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description="What more replicas bring.")
    parser.add_argument("--replicas", default="1,2,4,8,16")
    parser.add_argument("--rows", type=int, default=200, help="for each replica")
    parser.add_argument("--answer-s", type=float, default=0.1)
    parser.add_argument("--slots", type=int, default=1, help="what a replica says that it computes at once")
    options = parser.parse_args()
    machine = this_machine()
    print(f"{where(machine)}; echo, {options.answer_s:g} s an answer, {options.rows} rows for each replica")
    counts = [int(count) for count in options.replicas.split(",")]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # a short name
        quiet = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 100 * 2**20}
        ray.init("local", num_cpus=max(counts), _temp_dir=folder, **quiet)
        ran = [measured(count, count * options.rows, options.answer_s, options.slots) for count in counts]
        ray.shutdown()
    add_rows(RESULTS, [{**taken_on(machine), **asdict(one)} for one in ran])
    alone = ran[0].rows_per_s / ran[0].replicas
    print("replicas   rows/s   of linear   idle at the end")
    for one in ran:
        linear = one.rows_per_s / one.replicas / alone
        print(f"{one.replicas:8} {one.rows_per_s:8.1f} {linear:11.3f} {one.idle_share:17.1%}")
    return 0


class Timed(RayReplica):
    """Knows when it told its last answer."""

    last_s = 0.0

    def take(self) -> Told | None:
        told = super().take()
        if told is not None and told.completions:
            self.last_s = time.monotonic()
        return told


def measured(replicas: int, rows: int, answer_s: float, slots: int) -> Ran:
    section = EngineSection(kind="echo", echo_s=answer_s, replicas=replicas, max_num_seqs=slots)
    order = Order(section, Lane("full", "echo"), None, "default", NO_ADAPTERS, str(Path.cwd()))
    actor = ray.remote(ReplicaHost).options(num_cpus=1, max_concurrency=CALLS_AT_ONCE)
    hired: list[Timed] = []

    leaving = Leaving(ray)

    def hire() -> Timed:
        hired.append(Timed(ray, actor.remote(order), leaving))
        return hired[-1]

    def wait(replicas: Sequence[Timed], seconds: float) -> None:
        ray.wait([one.news for one in replicas], num_returns=1, timeout=seconds)

    with (
        tempfile.TemporaryDirectory() as scratch,
        Meter(Path(scratch) / "replicas.meter") as meter,
        Fleet(hire, wait, replicas, replicas, slots, lambda: False, meter, print) as fleet,
    ):
        began = time.monotonic()
        answered = sum(1 for _ in fleet.run(requests(rows)))
        seconds = time.monotonic() - began
    assert answered == rows
    idle_s = [began + seconds - one.last_s for one in hired]
    return Ran(replicas, rows, answer_s, slots, round(seconds, 3), round(sum(idle_s) / replicas / seconds, 5))


def requests(rows: int) -> Iterator[Request]:
    said = (Message("user", "so many words that it can answer"),)
    return (Request(row, str(row), Endpoint.CHAT, said, Sampling(max_tokens=4)) for row in range(rows))


if __name__ == "__main__":
    sys.exit(main())
