"""`gristmill schedule`: a job on a cron, served by this process until it is stopped."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from flows.buckets import absolute
from serving.environment import make_prefect_home

SERVER_START_LIMIT_S = 180.0


class NoServer(RuntimeError):
    """Prefect's server did not come up."""


def serve(job: Path, overrides: list[str], runs: str, cron: str) -> None:
    """Run the job whenever `cron` says, until this process ends.

    Without PREFECT_API_URL a Prefect server of our own runs beside it, on loopback; with it, that server is used. For
    a deployment that outlives this process, see prefect.yaml.
    """
    if os.environ.get("PREFECT_API_URL"):
        _serve(job, overrides, runs, cron)
        return
    with _own_server() as url:
        os.environ["PREFECT_API_URL"] = url
        _serve(job, overrides, runs, cron)


def _serve(job: Path, overrides: list[str], runs: str, cron: str) -> None:
    from prefect.types.entrypoint import EntrypointType

    from flows.orchestrate import answer_job

    parameters = {"job": str(job.absolute()), "overrides": overrides, "runs": absolute(runs)}
    answer_job.serve(
        name=job.stem,
        cron=cron,
        parameters=parameters,
        tags=["gristmill"],
        limit=1,  # one run of this deployment at a time; the run folder's own lock holds in any case
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


@contextmanager
def _own_server() -> Iterator[str]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = make_prefect_home() / "server.log"
    with log.open("wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        _await(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def _await(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    print(f"starting a Prefect server at {url} (some 20 seconds)", flush=True)
    give_up = time.monotonic() + SERVER_START_LIMIT_S
    while time.monotonic() < give_up and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise NoServer(f"no Prefect server came up at {url} (its log: {log}); set PREFECT_API_URL to one that runs")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
