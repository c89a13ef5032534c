"""How time and memory grow with the rows of a job: N short prompts, a tenth of them duplicates, by the echo engine.

    python bench/scale.py 10000 100000 1000000 10000000 [--model models/smollm2-135m-instruct] [--folder DIR]

It runs `gristmill run` as a user does, in a temporary folder unless told of another, then the finished job once more,
then `gristmill verify`. A stage ends when the file that completes it is in place; every process that is seen below the
command is asked for its peak. Of several sizes it says how the cost of a row grows from the first to the last: as it
is, and as each further row costs between one size and the next, in which the seconds that every run takes to start
and to end, whatever its rows, are left out. Adds raw figures to bench/results/scale.csv. 10,000,000 rows take twenty
minutes, and some 12 GB of disk.
"""

import argparse
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from serving.engines.machine import this_machine

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

RESULTS = Path(__file__).parent / "results" / "scale.csv"
COMMAND = Path(sys.executable).parent / "gristmill"
DUPLICATES = 0.1
SAMPLE_S = 0.05
MILLION = 1_000_000
LIMIT_MIB, LIMIT_OF_MORE_MIB = 512, 1024  # what no process may pass, of a job of a million rows and of a larger one
ENDS = {  # by stage, the file that completes it; of several, the newest
    "open": "run.json",
    "admit": "admitted/admit.json",
    "collapse": "decisions/collapse.json",
    "route": "decisions/route.json",
    "answer": "segments/[0-9]*.json",
    "export": "export/errors.jsonl",
    "finish": "export/finished.json",
    "ledger": "../ledger.duckdb",
}


@dataclass(slots=True)
class Watched:
    """A command that has run: how long, and what its processes took."""

    began_unix_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of all its processes
    peak_mib: dict[int, tuple[str, float]] = field(default_factory=dict)  # by process id, its name and its peak
    seen: list[tuple[float, float]] = field(default_factory=list)  # (unix_s, MiB of all processes at that time)


@dataclass(frozen=True, slots=True)
class Size:
    """What a job of so many rows took; the highest peak is that of any process of the three commands."""

    tokenizer: str
    rows: int
    run_s: float
    cpu_s: float  # of all its processes
    admit_s: float
    collapse_s: float
    answer_s: float
    export_s: float
    resumed_s: float
    verify_s: float
    peak_mib: float

    @property
    def us_a_row(self) -> float:
        return self.run_s / self.rows * 1e6

    @property
    def limit_mib(self) -> int:
        return LIMIT_MIB if self.rows <= MILLION else LIMIT_OF_MORE_MIB


def main() -> int:
    options = _options()
    machine = this_machine()
    tokenizer = options.model.name if options.model else "none"
    print(f"{where(machine)}; echo engine, tokenizer: {tokenizer}")
    sizes = []
    for rows in options.rows:
        folder = None if options.folder is None else options.folder / str(rows)
        if folder is not None:
            folder.mkdir(parents=True)
        with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="scale-") as place:
            sizes.append(measure(Path(place), rows, options.model))
        add_rows(RESULTS, [{**taken_on(machine), **asdict(sizes[-1])}])
    summarize(sizes)
    return 0 if all(size.peak_mib <= size.limit_mib for size in sizes) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How time and memory grow with the rows of a job.")
    parser.add_argument("rows", type=int, nargs="*", default=[MILLION])
    parser.add_argument("--model", type=Path, help="a model folder: its tokenizer renders the prompts (default: none)")
    parser.add_argument("--folder", type=Path, help="where to run, and leave what was made (default: a temporary one)")
    return parser.parse_args()


def measure(folder: Path, rows: int, model: Path | None) -> Size:
    write_job(folder, rows, model)
    first = watch(["run", "job.toml", "--quiet"], folder)
    again = watch(["run", "job.toml", "--quiet"], folder)
    verified = watch(["verify"], folder)
    print(f"\n{rows} rows, {rows / first.wall_s:.0f} a second")
    print(f"{'':14}{'seconds':>10} {'peak MiB':>10} {'us a row':>10} {'CPU s':>10}")
    took: dict[str, float] = {}
    for stage, stage_s, peak_mib in stages(first, folder):
        took[f"{stage}_s"] = round(stage_s, 2)
        print(f"{stage:14}{stage_s:>10.2f} {peak_mib:>10.0f} {stage_s / rows * 1e6:>10.1f}")
    highest_mib = 0.0
    for name, run in (("whole run", first), ("resumed", again), ("verify", verified)):
        peak_mib = max((peak for _, peak in run.peak_mib.values()), default=0.0)
        highest_mib = max(highest_mib, peak_mib)
        print(f"{name:14}{run.wall_s:>10.2f} {peak_mib:>10.0f} {run.wall_s / rows * 1e6:>10.1f} {run.cpu_s:>10.2f}")
    for pid, (name, peak_mib) in first.peak_mib.items():
        print(f"  {name} {pid}: peak {peak_mib:.0f} MiB")
    kept = {name: took[name] for name in ("admit_s", "collapse_s", "answer_s", "export_s")}
    whole = {
        "run_s": first.wall_s,
        "cpu_s": first.cpu_s,
        "resumed_s": again.wall_s,
        "verify_s": verified.wall_s,
        "peak_mib": highest_mib,
    }
    tokenizer = model.name if model else "none"
    return Size(tokenizer=tokenizer, rows=rows, **kept, **{name: round(figure, 2) for name, figure in whole.items()})


def summarize(sizes: list[Size]) -> None:
    heading = f"{'rows':>12} {'rows/s':>8} {'us a row':>9} {'a further row':>14} {'its CPU us':>11} {'peak MiB':>9}"
    print(f"\n{heading}")
    further = [(_of_a_row(two, "run_s") * 1e6, _of_a_row(two, "cpu_s") * 1e6) for two in pairwise(sizes)]
    for size, more in zip(sizes, [None, *further], strict=True):
        us, cpu_us = ("", "") if more is None else (f"{more[0]:.1f}", f"{more[1]:.1f}")
        within = "within" if size.peak_mib <= size.limit_mib else "ABOVE"
        print(
            f"{size.rows:>12} {size.rows / size.run_s:>8.0f} {size.us_a_row:>9.1f} {us:>14} {cpu_us:>11}"
            f" {size.peak_mib:>9.0f}  {within} {size.limit_mib}"
        )
    if further:
        (us, cpu_us), (last_us, last_cpu_us) = further[0], further[-1]
        print(
            f"from the first size to the last: {sizes[-1].us_a_row / sizes[0].us_a_row - 1:+.0%} a row,"
            f" {last_us / us - 1:+.0%} a further row, {last_cpu_us / cpu_us - 1:+.0%} of its CPU time; the highest peak"
            f" grows by {_of_a_row(sizes[-2:], 'peak_mib') * 2**20:.0f} bytes a further row"
        )


def _of_a_row(two: Sequence[Size], figure: str) -> float:
    """What each of the rows by which the later one is larger adds to a figure."""
    earlier, later = two
    return float((getattr(later, figure) - getattr(earlier, figure)) / (later.rows - earlier.rows))


def write_job(folder: Path, rows: int, model: Path | None) -> None:
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts(rows)):
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 16}
            row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(row) + "\n")
    sections = {
        "dataset": 'path = "prompts.jsonl"',
        "model": f'full = "{model.resolve() if model else "echo"}"',
        "engine": 'kind = "echo"',
        "price": "usd_per_hour = 1",
    }
    text = "".join(f"[{name}]\n{content}\n" for name, content in sections.items())
    (folder / "job.toml").write_text(text, encoding="utf-8")


def prompts(rows: int) -> Iterator[str]:
    """Short prompts with few beginnings; some rows repeat an earlier one. The same for the same number of rows."""
    draw = random.Random(rows)
    verbs = ("Add", "Multiply", "Compare", "Classify", "Summarize", "Translate", "Explain", "Sort")
    for number in range(rows):
        source = draw.randrange(number) if number and draw.random() < DUPLICATES else number
        yield f"{verbs[source % len(verbs)]} the following: item {source} with item {source * 7919 % 1_000_003}."


def watch(arguments: list[str], folder: Path) -> Watched:
    """Run the command to its end. A peak in the last instant of a process may be missed."""
    done = Watched(began_unix_s=time.time())
    cpu_s = _cpu_s()
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([COMMAND, *arguments], cwd=folder, stdout=output, stderr=output)
        while process.poll() is None:
            look_at(process.pid, done)
            time.sleep(SAMPLE_S)
    done.wall_s = time.time() - done.began_unix_s
    done.cpu_s = _cpu_s() - cpu_s
    if process.returncode != 0:
        text = (folder / "output.txt").read_text()
        raise SystemExit(f"gristmill {' '.join(arguments)} ended with {process.returncode}:\n{text[-2000:]}")
    return done


def _cpu_s() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def look_at(root: int, done: Watched) -> None:
    now, total_mib = time.time(), 0.0
    for pid in family(root):
        with contextlib.suppress(OSError, KeyError, IndexError):  # it may end while it is asked
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            total_mib += _mib(status["VmRSS"])
            _, before_mib = done.peak_mib.get(pid, ("", 0.0))
            done.peak_mib[pid] = (status["Name"].strip(), max(before_mib, _mib(status["VmHWM"])))
    done.seen.append((now, total_mib))


def family(pid: int) -> list[int]:
    """A process and all that it started, and so on."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(descendant for child in children for descendant in family(child))]


def _mib(status: str) -> float:
    """From `1234 kB`, which counts in KiB."""
    return int(status.split()[0]) / 1024


def stages(run: Watched, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Each stage with its seconds and the most memory that was seen during it, from when its last file was written."""
    (run_folder,) = (file.parent for file in (folder / "runs").glob("*/run.json"))
    began = run.began_unix_s
    ends = {stage: _newest(run_folder, pattern) for stage, pattern in ENDS.items()}
    for stage, ended in [*ends.items(), ("receipt", run.began_unix_s + run.wall_s)]:
        if ended is not None:
            yield stage, ended - began, max((mib for at, mib in run.seen if began <= at <= ended), default=0.0)
            began = ended


def _newest(folder: Path, pattern: str) -> float | None:
    found = [file.stat().st_mtime for file in folder.parent.glob(f"{folder.name}/{pattern}")]
    if pattern.startswith("../"):
        found = [(folder / pattern).stat().st_mtime] if (folder / pattern).exists() else []
    return max(found, default=None)


if __name__ == "__main__":
    sys.exit(main())
