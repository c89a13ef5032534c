"""A job on a Ray cluster of its own, on this machine: the answers of one process, whatever becomes of a worker."""

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from serving.store.ledger import ask, open_ledger

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
CPUS = 4
JOB = """
[dataset]
path = "{folder}/prompts.jsonl"
[model]
full = "{model}"
[sampling]
max_tokens = {max_tokens}
[engine]
kind = "{kind}"
max_num_seqs = {slots}
{engine}
[price]
usd_per_hour = 0.1
"""
CLUSTER = '[cluster]\nray = "{address}"\n'

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster that is gone afterwards, with its folder, whose name is short: a socket's has to be."""
    own = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    port = 20_000 + os.getpid() % 10_000
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= auth
    command = [BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--num-cpus={CPUS}"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    command += [f"--temp-dir={own}"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    give_up = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(60)
    shutil.rmtree(own, ignore_errors=True)
    for name in auth:
        del os.environ[name]


def prompts(folder: Path, rows: int) -> None:
    folder.mkdir()
    lines = [{"id": f"row-{row}", "prompt": f"Say {row} in words, please."} for row in range(rows)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def job(folder: Path, engine: str, address: str | None, **more: object) -> list[str]:
    settings = {"model": "echo", "kind": "echo", "max_tokens": 16, "slots": 2, **more}
    text = JOB.format(folder=folder, engine=engine, **settings) + (CLUSTER.format(address=address) if address else "")
    (folder / "job.toml").write_text(text)
    return ["--runs", str(folder / "runs"), "run", str(folder / "job.toml")]


def answers(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in next((folder / "runs").glob("*/export/results.jsonl")).read_text().splitlines():
        row = json.loads(line)
        assert row["custom_id"] not in found, "twice"
        body = row["response"]["body"]
        found[row["custom_id"]] = json.dumps(body["choices"])
    return found


def workers() -> list[int]:
    """The processes of replicas."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::ReplicaHost"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_replicas_give_the_answers_of_one_process(cluster: str, tmp_path: Path) -> None:
    for name, engine, address in (("one", "", None), ("many", "replicas = 3", cluster)):
        prompts(tmp_path / name, 300)
        assert main(job(tmp_path / name, engine, address)) == 0
    assert answers(tmp_path / "one") == answers(tmp_path / "many")
    assert len(answers(tmp_path / "many")) == 300
    assert not workers(), "a replica outlived its run"


def test_killed_workers_lose_nothing_and_double_nothing(cluster: str, tmp_path: Path) -> None:
    """At random times of one run after the other, as often as GRISTMILL_WORKER_KILLS says. Each token that an engine
    computed is in the witness of the double, so that a row which nobody asked for would be seen."""
    kills, killed = int(os.environ.get("GRISTMILL_WORKER_KILLS", "4")), 0
    draw, done = random.Random(7), threading.Event()

    def kill_now_and_then() -> None:
        nonlocal killed
        spent_before = 0
        while not done.is_set():
            time.sleep(draw.uniform(0.2, 1.5))
            spent = sum(file.stat().st_size for file in tmp_path.glob("*/spent.jsonl"))
            if spent == spent_before:
                continue  # no row since the last one: replicas that never become ready rightly end a run
            if killed < kills and (alive := workers()):
                spent_before = spent
                try:
                    os.kill(draw.choice(alive), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    continue

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    number = 0
    try:
        while killed < kills:
            folder = tmp_path / str(number)
            prompts(folder, 400)
            audit = folder / "spent.jsonl"
            settings = f'replicas = 3\necho_s = 0.02\necho_audit = "{audit}"'
            assert main(job(folder, settings, cluster)) == 0
            assert len(answers(folder)) == 400
            spent = [json.loads(line)["custom_id"] for line in audit.read_text().splitlines()]
            assert set(spent) == set(answers(folder))
            with open_ledger(folder / "runs") as ledger:
                settled = ask(ledger, "SELECT count(*), count(DISTINCT custom_id) FROM rows").rows
            assert [tuple(row) for row in settled] == [(400, 400)]
            number += 1
    finally:
        done.set()
        killer.join()
    assert killed == kills


def test_a_machine_that_is_taken_away_finishes_what_it_has_begun(
    cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A SIGTERM, as a spot machine gets it, to one of two: nothing of what its replicas had begun is lost."""
    own = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [str(BIN / "ray"), "start", f"--address={cluster}", "--block", f"--num-cpus={CPUS}"]
    with (own / "log").open("wb") as output:
        spot = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    taken = threading.Event()

    def take_away() -> None:
        give_up = time.monotonic() + 120
        while not (audit.exists() and audit.read_text().count("\n") > 60) and time.monotonic() < give_up:
            time.sleep(0.1)
        os.kill(spot.pid, signal.SIGTERM)
        taken.set()

    folder = tmp_path / "job"
    prompts(folder, 600)
    audit = folder / "spent.jsonl"
    try:
        while "Ray runtime started" not in (own / "log").read_text():
            assert spot.poll() is None, (own / "log").read_text()
            time.sleep(0.2)
        taker = threading.Thread(target=take_away)
        taker.start()
        settings = f'replicas = {CPUS + 1}\necho_s = 0.2\necho_audit = "{audit}"'  # so one at least is on either
        assert main(job(folder, f'{settings}\n[cluster]\nleast = {CPUS + 1}\nray = "{cluster}"', None)) == 0
        taker.join()
        assert taken.is_set()
        assert spot.wait(60) is not None
    finally:
        if spot.poll() is None:
            os.killpg(spot.pid, signal.SIGKILL)
        shutil.rmtree(own, ignore_errors=True)
    assert "is taken away: starting another elsewhere" in capfd.readouterr().err
    assert len(answers(folder)) == 600
    spent = [json.loads(line)["custom_id"] for line in audit.read_text().splitlines()]
    assert len(spent) == len(set(spent)) == 600, "a row was computed twice"


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts(tmp_path / "job", 3)
    assert main(job(tmp_path / "job", "replicas = 2", "127.0.0.1:1")) != 0
    said = capsys.readouterr().err
    assert "127.0.0.1:1" in said
    assert "ray start --head" in said
    assert "Traceback" not in said


@pytest.mark.engines
def test_replicas_of_the_real_engine_give_its_answers(cluster: str, tmp_path: Path) -> None:
    model = ROOT / "models" / "smollm2-135m-instruct"
    for name, engine, address in (("one", "", None), ("two", "replicas = 2", cluster)):
        prompts(tmp_path / name, 12)
        assert main(job(tmp_path / name, engine, address, kind="vllm", model=model, max_tokens=8)) == 0
    assert answers(tmp_path / "one") == answers(tmp_path / "two")


def test_a_budget_stops_it_and_the_rest_is_answered_later(cluster: str, tmp_path: Path) -> None:
    prompts(tmp_path / "job", 400)
    command = job(tmp_path / "job", "replicas = 2\necho_s = 0.05", cluster)
    assert main([*command, "--set", "budget.usd=0.0002"]) == 3
    assert not workers(), "a replica outlived its run"
    assert main(command) == 0
    assert len(answers(tmp_path / "job")) == 400


def test_a_signal_ends_it_in_good_order(cluster: str, tmp_path: Path) -> None:
    """Ray has a handler of its own, which would end the process where it stands."""
    prompts(tmp_path / "job", 400)
    command = [str(BIN / "gristmill"), *job(tmp_path / "job", "replicas = 2\necho_s = 0.05", cluster)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as run:
        give_up = time.monotonic() + 120
        while not workers() and time.monotonic() < give_up:
            time.sleep(0.1)
        time.sleep(3)
        run.terminate()
        assert run.wait(90) == 130
    assert not workers()
    assert main(command[1:]) == 0
    assert len(answers(tmp_path / "job")) == 400


def test_each_machine_of_a_cluster_is_paid_for(tmp_path: Path) -> None:
    bills = []
    for machines in (1, 4):
        folder = tmp_path / str(machines)
        prompts(folder, 10)
        assert main([*job(folder, "echo_s = 0.05", None), "--set", f"price.machines={machines}"]) == 0
        with open_ledger(folder / "runs") as ledger:
            bills += ask(ledger, "SELECT usd_per_hour FROM runs").rows
    assert [float(usd) for (usd,) in bills] == [0.1, 0.4]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("replicas = 2", 'engine.replicas of kind "echo" run on a cluster'),
        ("[cluster]\nleast = 2", "cluster.least = 2, but engine.replicas = 1"),
        ('base_url = "http://127.0.0.1:1/v1"\nreplicas = 2\n[cluster]\nray = "auto"', "a server has its own"),
    ],
)
def test_replicas_without_a_place_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, said: str
) -> None:
    prompts(tmp_path / "job", 3)
    kind = "http" if "base_url" in section else "echo"
    assert main(job(tmp_path / "job", section, None, kind=kind)) == 2
    assert said in capsys.readouterr().err
