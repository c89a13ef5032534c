"""gristmill beside vLLM's own run-batch and a bare engine loop: the same files, model and settings, one run.

    python bench/run_batch.py [--rounds 5] [--first 0] [--defaults] [--files "without redundancy"]

Each command is timed from its start to its end, start-up included, as its user waits for it; the bare loop, and
gristmill for the comparison with it, from the first request to the last answer. What vLLM keeps between starts is there
for each. Prints medians of the rounds' ratios, and what of gristmill's engine time its engine was not in a step, which
needs no second run to be told; adds raw figures to bench/results/run_batch.csv.

Rows are as those of labelling: some 340 tokens in, eight out. Real files are many times longer than a KV cache, so that
by chance a prompt seldom finds its beginning there. These are short, since a CPU is slow; the cache is as small beside
them: it holds ten prompts of 256.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import child_environment
from serving.environment import settle

sys.path.insert(0, str(Path(__file__).parent))
from logs import like_logs, without_redundancy, write
from sheet import add_rows, taken_on, where

HERE = Path(__file__).parent
MODEL = Path("models/smollm2-135m-instruct").resolve()
RESULTS = HERE / "results" / "run_batch.csv"
SLOTS, KV_GIB, BLOCK_TOKENS, CONTEXT_TOKENS, MAX_TOKENS = 8, 0.15, 32, 1024, 8
ROWS = {"without redundancy": 32, "like real logs": 256}
STATE = Path(".gristmill").resolve()
COMMAND = Path(sys.executable).parent / "gristmill"


# A lane's rates are its steps' seconds by what they did, so that its tokens at those rates are its steps again.
TIMES = """
SELECT sum(engine_s) AS engine_s, count(*) FILTER (outcome = 'answered') AS answered,
       sum((prompt_tokens - cached_tokens) * prefill_s_per_token + completion_tokens * decode_s_per_token)
           FILTER (source = 'engine') AS steps_s
FROM rows JOIN lane_rates USING (run_id, lane)
"""


@dataclass(frozen=True, slots=True)
class Timed:
    contender: str
    file: str
    round: int
    wall_s: float  # of the command
    engine_s: float | None  # from the first request to the last answer, where that can be told
    steps_s: float | None  # of engine_s, within steps of the engine
    answered: int


Figures = tuple[float | None, float | None, int]  # engine_s, steps_s, answered


def main() -> int:
    parser = argparse.ArgumentParser(description="gristmill beside vLLM's run-batch and a bare engine loop.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, which makes its files")
    parser.add_argument("--defaults", action="store_true", help="also run-batch as it starts by itself: it is slow")
    parser.add_argument("--files", nargs="+", choices=list(FILES), default=list(FILES))
    options = parser.parse_args()
    settle(STATE)
    machine = this_machine()
    timed = []
    with tempfile.TemporaryDirectory(prefix="run-batch-") as folder:
        for number in range(options.first, options.first + options.rounds):
            for contender, file in PAIRS:
                if file in options.files and (contender != DEFAULTS or options.defaults):
                    timed.append(timed_run(contender, file, number, Path(folder)))
                    add_rows(RESULTS, [{**taken_on(machine), **_columns(timed[-1])}])
    print(f"{where(machine)}")
    show(timed)
    return 0


def timed_run(contender: str, file: str, number: int, folder: Path) -> Timed:
    """In a folder of its own, on a file that no other round has."""
    own = folder / f"{number}-{contender.replace(' ', '-')}-{file.replace(' ', '-')}"
    own.mkdir()
    (own / STATE.name).symlink_to(STATE)
    write(own / "prompts.jsonl", FILES[file](ROWS[file], number), MAX_TOKENS, str(MODEL))
    began = time.monotonic()
    engine_s, steps_s, answered = CONTENDERS[contender](own)
    wall_s = time.monotonic() - began
    print(f"  round {number + 1}  {file:20} {contender:22} {wall_s:7.1f} s, {answered} answered", flush=True)
    if answered != ROWS[file]:
        raise SystemExit(f"{contender} answered {answered} of {ROWS[file]} rows")
    return Timed(contender, file, number, wall_s, engine_s, steps_s, answered)


def gristmill(folder: Path) -> Figures:
    """Exact duplicates collapsed, near ones not: what it answers is what the others answer."""
    (folder / "job.toml").write_text(
        f"""
        [dataset]
        path = "prompts.jsonl"
        [model]
        full = "{MODEL}"
        [engine]
        dtype = "{_config().precision.weights}"
        max_num_seqs = {SLOTS}
        kv_gib = {KV_GIB}
        block_size = {BLOCK_TOKENS}
        max_model_len = {CONTEXT_TOKENS}
        [price]
        usd_per_hour = 0.1
        """
    )
    _run([str(COMMAND), "run", "job.toml", "--quiet"], folder, dict(os.environ))
    command = [str(COMMAND), "costs", "--format", "json", "--sql", TIMES]
    (said,) = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    return said["engine_s"], said["steps_s"], said["answered"]


def run_batch(folder: Path) -> Figures:
    config = _config()
    settings = [
        "--dtype", config.precision.weights, "--enforce-eager", "--max-num-seqs", str(SLOTS),
        "--kv-cache-memory-bytes", str(int(KV_GIB * 2**30)), "--block-size", str(BLOCK_TOKENS),
        "--max-model-len", str(CONTEXT_TOKENS),
        "--max-num-batched-tokens", str(config.batching.max_num_batched_tokens),
    ]  # fmt: skip
    return _vllm_run_batch(folder, settings, _environment())


def run_batch_defaults(folder: Path) -> Figures:
    """But for the share of memory: it asks for 92 % of a CPU machine's, and ends where less than that is free."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return _vllm_run_batch(folder, ["--gpu-memory-utilization", "0.5"], environment)


def bare_loop(folder: Path) -> Figures:
    arguments = json.dumps(vllm_arguments(MODEL, _config()))
    _run(
        [sys.executable, "-P", str(HERE / "bare_loop.py"), arguments, "prompts.jsonl", "out.json"],
        folder,
        _environment(),
    )
    said = json.loads((folder / "out.json").read_text())
    return said["seconds"], None, said["answered"]


def _vllm_run_batch(folder: Path, settings: list[str], environment: dict[str, str]) -> Figures:
    """By its module: the command `vllm` asks for its version under a name that the CPU build lacks."""
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.run_batch"]
    files = ["--input-file", "prompts.jsonl", "--output-file", "out.jsonl", "--model", str(MODEL)]
    _run([*command, *files, *settings], folder, environment)
    replies = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return None, None, sum(reply["response"]["status_code"] == 200 for reply in replies)


def _config() -> EngineConfig:
    config = EngineConfig(
        cache=PagedCache(block_tokens=BLOCK_TOKENS, memory_gib=KV_GIB),
        batching=Batching(SLOTS),
        max_model_len=CONTEXT_TOKENS,
    )
    return settled(config, this_machine())


def _environment() -> dict[str, str]:
    return child_environment(_config(), this_machine(), None)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    with (folder / "log").open("wb") as log:
        code = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode
    if code:
        said = (folder / "log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command[:5])} ended with {code}:\n{said}")


DEFAULTS = "run-batch, defaults"
FILES = {"without redundancy": without_redundancy, "like real logs": like_logs}
CONTENDERS: dict[str, Callable[[Path], Figures]] = {
    "gristmill": gristmill,
    "run-batch": run_batch,
    DEFAULTS: run_batch_defaults,
    "bare loop": bare_loop,
}
PAIRS = [
    (contender, file)
    for file in FILES
    for contender in CONTENDERS
    if (contender, file) != ("bare loop", "like real logs")
]


def show(timed: list[Timed]) -> None:
    print("throughput of gristmill, as a multiple of (median of the rounds, least and most)")
    for contender, file in PAIRS:
        if contender != "gristmill":
            print(f"  {file:20} {contender:22} {ratio(timed, contender, file)}")
    outside = [1 - one.steps_s / one.engine_s for one in timed if one.steps_s and one.engine_s]
    print(
        f"engine time outside its steps, by its own clock: {statistics.median(outside):.1%}, at most {max(outside):.1%}"
    )


def ratio(timed: list[Timed], contender: str, file: str) -> str:
    ours = {one.round: one for one in timed if (one.contender, one.file) == ("gristmill", file)}
    theirs = [one for one in timed if (one.contender, one.file) == (contender, file) and one.round in ours]
    if not theirs:
        return "not run"
    each = [
        one.engine_s / (ours[one.round].engine_s or 0.0) if one.engine_s else one.wall_s / ours[one.round].wall_s
        for one in theirs
    ]
    return f"{statistics.median(each):5.2f}  ({min(each):.2f} to {max(each):.2f})"


def _columns(one: Timed) -> dict[str, object]:
    return {
        "contender": one.contender,
        "file": one.file,
        "rows": ROWS[one.file],
        "round": one.round,
        "wall_s": f"{one.wall_s:.2f}",
        "engine_s": "" if one.engine_s is None else f"{one.engine_s:.2f}",
        "steps_s": "" if one.steps_s is None else f"{one.steps_s:.2f}",
        "answered": one.answered,
    }


if __name__ == "__main__":
    sys.exit(main())
