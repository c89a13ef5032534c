"""Replicas of a lane's engine on a Ray cluster. Ray finds them a place and says when one is lost; rows stay with us."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.open import Work
from serving.engines.fleet import Fleet
from serving.engines.machine import CannotRun
from serving.engines.replica_host import Death, Order, ReplicaHost, Told
from serving.environment import outdated
from serving.records import Lane, Request
from serving.store.meter import Meter

TELLS_S = 1.0  # at the latest
ENDS_S = 5.0
CONNECTS_S = 5.0
TOKEN = Path.home() / ".ray" / "auth_token"
CALLS_AT_ONCE = 4  # of a replica: it is given requests, and asked for news, while it becomes ready


@contextmanager
def open_replicas(work: Work, lane: Lane, meter: Meter, kv_tokens: int | None) -> Iterator["Fleet[RayReplica]"]:
    """The lane's engine as so many actors of the job's cluster.

    Raises:
        CannotRun: as `joined` does.
    """
    section = work.job.engine
    order = Order(section, lane, kv_tokens, work.job.tenant.name, work.adapters, str(Path.cwd()))
    ranks = section.tensor_parallel * section.pipeline_parallel
    with joined(work.job.cluster.ray) as ray:
        with_gpus = section.kind == "vllm" and ray.cluster_resources().get("GPU", 0) > 0
        needs = {"num_gpus": ranks} if with_gpus else {"num_cpus": work.job.cluster.cpus}
        actor = ray.remote(ReplicaHost).options(**needs, max_concurrency=CALLS_AT_ONCE, max_restarts=0)

        nodes = Leaving(ray)

        def hire() -> RayReplica:
            return RayReplica(ray, actor.remote(order), nodes)

        def wait(replicas: Sequence[RayReplica], seconds: float) -> None:
            ray.wait([replica.news for replica in replicas], num_returns=1, timeout=seconds)

        least, slots = work.job.cluster.least, section.max_num_seqs
        with Fleet(hire, wait, section.replicas, least, slots, work.asked_to_stop, meter, work.progress.say) as fleet:
            yield fleet


class Leaving:
    """Which machines are about to be taken away: Ray knows it of one where `ray start --block` got a SIGTERM, and of
    those that its autoscaler or `ray drain-node` names."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._nodes: frozenset[str] = frozenset()
        self._asked_s = 0.0

    def __contains__(self, node: str | None) -> bool:
        if time.monotonic() - self._asked_s > TELLS_S:
            self._nodes = frozenset(self._ray._private.state.state.get_draining_nodes())  # no public way to ask
            self._asked_s = time.monotonic()
        return node in self._nodes


class RayReplica:
    """An actor, of which one question is always under way: at first whether it is ready, then what is new."""

    def __init__(self, ray: Any, actor: Any, leaving: Leaving) -> None:
        self._ray = ray
        self._actor = actor
        self._leaving = leaving
        self._node: str | None = None
        self._where = actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        self.ready = False
        self.news = actor.await_ready.remote()

    @property
    def leaving(self) -> bool:
        if self.ready and self._node is None:
            self._node = self._ray.get(self._where)
        return self._node in self._leaving

    def drain(self) -> None:
        self._actor.drain.remote()

    def give(self, requests: list[Request]) -> None:
        self._actor.give.remote(requests)

    def take(self) -> Told | None:
        if not self._ray.wait([self.news], timeout=0)[0]:
            return None
        try:
            told = self._ray.get(self.news)
        except self._ray.exceptions.RayError as lost:
            told = Death(str(lost).strip().splitlines()[0])
        if isinstance(told, Death):
            return Told([], death=told)
        self.ready = True
        self.news = self._actor.take.remote(TELLS_S)
        return told or Told([])

    def close(self) -> None:
        """In good order where it still can, so that nothing of its engine is left on its machine."""
        self._ray.wait([self._actor.close.remote()], timeout=ENDS_S)
        self._ray.kill(self._actor, no_restart=True)


@contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Ray, as a client of that cluster until the end.

    Raises:
        CannotRun: it is not installed, is too old to be safe, or no such cluster answers.
    """
    if TOKEN.exists():  # as `ray start` itself has it; a client of Ray's own is only told by the variable
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ModuleNotFoundError:
        raise CannotRun("cluster.ray needs Ray, which is not installed; pip install 'ray>=2.55'") from None
    if old := outdated():
        raise CannotRun(f"{', '.join(old)}; install the versions in requirements/")
    _must_listen(address)
    # It says on stdout when a worker is lost, where a receipt is to stand; the fleet says so itself.
    ray._private.worker.print_to_stdstream = lambda *said, **how: None
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except ConnectionError as error:
        said = str(error).strip().splitlines()[0]
        raise CannotRun(f'cluster.ray = "{address}": {said}; start one with `ray start --head`') from None
    finally:  # its own handler would end a run where it stands
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield ray
    finally:
        ray.shutdown()


def _must_listen(address: str | None) -> None:
    """Ray tries for minutes. What "auto" stands for it finds out at once."""
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECTS_S).close()
    except OSError as error:
        raise CannotRun(f'cluster.ray = "{address}": {error}; start a cluster with `ray start --head`') from None
