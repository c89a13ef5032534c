"""The sample job with everything in a bucket, input, model and runs: killed at random times, here and elsewhere."""

import json
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import obstore
import pytest

from tests.faults.bucket_jobs import COPIES, ON_ANOTHER_MACHINE
from tests.faults.crash import long_form
from tests.faults.jobs import RUN, VERIFY
from tests.faults.process import Ended, Forges, Launch, Start
from tests.faults.sweep import Sweep
from tests.object_store import BUCKET, ObjectStore

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
INPUT, MODEL = ROOT / "datasets" / "sample" / "prompts.jsonl", ROOT / "models" / "smollm2-135m-instruct"
KILLS_AT_MOST = 12  # of one run
JOB = f"""
[dataset]
path = "s3://{BUCKET}/sample/prompts.jsonl"
[model]
full = "s3://{BUCKET}/sample/model"
[engine]
kind = "echo"
echo_s = 0.004
[price]
usd_per_hour = 3600
"""


class Runs:
    """Of the sample job, one after the other, each in a folder of the bucket."""

    def __init__(self, folder: Path, store: ObjectStore, launch: Launch) -> None:
        self.folder, self._store, self._launch = folder, store, launch
        self._number = 0
        folder.mkdir(parents=True)
        (folder / "job.toml").write_text(JOB, encoding="utf-8")

    @property
    def name(self) -> str:
        return f"sample/runs-{self._number}"

    def begin(self) -> None:
        self._number += 1
        self.lose_copy()

    def lose_copy(self) -> None:
        for copy in (self.folder / COPIES).glob("*/runs-*"):
            shutil.rmtree(copy.parent)

    def start(self, *calls: list[str], killed_after_s: float | None = None) -> Ended:
        signals = () if killed_after_s is None else ((signal.SIGKILL, killed_after_s),)
        variables = {**self._store.environment, "GRISTMILL_RUNS": f"s3://{BUCKET}/{self.name}"}
        return self._launch(Start(self.folder, list(calls), environment=variables, signals=signals))

    def left(self) -> dict[str, list[str]]:
        """What the bucket has of each row: its answer, or why it has none."""
        found: dict[str, list[str]] = {}
        for path, data in self._store.contents(self.name).items():
            if path.endswith(("export/results.jsonl", "export/errors.jsonl")):
                for line in map(json.loads, data.splitlines()):
                    said = line["error"] or line["response"]["body"]["choices"]
                    found.setdefault(line["custom_id"], []).append(json.dumps(said))
        return found


def test_the_sample_job_with_everything_in_a_bucket_loses_and_doubles_nothing(
    forges: Forges, sweep: Sweep, objects: ObjectStore
) -> None:
    kills = long_form("GRISTMILL_SAMPLE_KILLS", 12)
    there = objects.folder("sample")
    obstore.put(there, "prompts.jsonl", INPUT)
    for file in MODEL.iterdir():
        obstore.put(there, f"model/{file.name}", file)
    draw = random.Random(398)
    with forges.one() as launch:
        runs = Runs(sweep.folder / "sample", objects, launch)
        runs.begin()
        assert runs.start(RUN).code == 0  # and the model is at hand
        whole = runs.left()
        assert Counter(len(said) for said in whole.values()) == {1: len(INPUT.read_bytes().splitlines())}
        runs.begin()
        longest_s = runs.start(RUN).wall_s
        while sweep.points < kills:
            runs.begin()
            ended = killed_until_done(runs, draw, sweep, longest_s)
            if ended.code or runs.start(VERIFY).code:
                sweep.violations.append(f"{runs.name} ended with {ended.code}: {ended.err[-300:]}")
            if runs.left() != whole:
                sweep.violations.append(f"{runs.name} left other rows than an undisturbed run")
    sweep.assert_lawful(least_points=kills)


def killed_until_done(runs: Runs, draw: random.Random, sweep: Sweep, longest_s: float) -> Ended:
    command = RUN
    for _ in range(KILLS_AT_MOST):
        ended = runs.start(command, killed_after_s=draw.uniform(0.0, longest_s))
        if not ended.killed:
            return ended
        sweep.point(runs.name, fired=True)
        if draw.random() < 0.5:
            runs.lose_copy()
            command = ON_ANOTHER_MACHINE
    return runs.start(command)
