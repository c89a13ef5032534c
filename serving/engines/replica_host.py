"""One engine that is driven from elsewhere: requests go in, and what became of them comes out, some at a time."""

import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from serving.config import EngineSection
from serving.engine_config import Adapters
from serving.engines.open import open_engine
from serving.records import Completion, Engine, EngineDied, Lane, Load, Rates, Request
from serving.store.meter import Meter, Spent

WAIT_S = 0.5  # for a request, where there is nothing else to do; then the engine looks whether it is to stop


@dataclass(frozen=True, slots=True)
class Order:
    """What a replica is made of."""

    section: EngineSection
    lane: Lane
    kv_tokens: int | None
    tenant: str
    adapters: Adapters
    folder: str  # where the paths of the job start


class Death(NamedTuple):
    """As serving.records.EngineDied has it, which does not survive being sent."""

    reason: str
    suspects: tuple[int, ...] = ()
    newest: int = 0

    def error(self) -> EngineDied:
        return EngineDied(*self)


class Told(NamedTuple):
    """What became of requests since it was told last; `spent`, `rates` and `load` are of all its life so far."""

    completions: list[Completion]
    spent: Spent | None = None
    rates: Rates | None = None
    load: Load | None = None
    death: Death | None = None
    returned: tuple[int, ...] = ()  # rows that it had not begun when it was told to drain


class ReplicaHost:
    """Its engine runs in a thread of its own, so that it can be given requests, and asked, while it works."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._news = threading.Condition()
        self._asked: deque[Request] = deque()
        self._done: list[Completion] = []
        self._returned: list[int] = []
        self._in_flight = 0  # in the engine
        self._ready = self._ended = False
        self._spent = Spent()
        self._rates: Rates | None = None
        self._load: Load | None = None
        self._death: Death | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def await_ready(self) -> Death | None:
        """Returns once it takes requests, or what it died of before."""
        with self._news:
            self._news.wait_for(lambda: self._ready)
            return self._death

    def give(self, requests: list[Request]) -> None:
        with self._news:
            self._asked.extend(requests)
            self._news.notify_all()

    def drain(self) -> None:
        """Give back what its engine has not been given; the rest is finished."""
        with self._news:
            self._returned += [request.row for request in self._asked]
            self._asked.clear()
            self._news.notify_all()

    def take(self, wait_s: float) -> Told:
        """What is finished by now; waits for the first of it, though not for longer than asked."""
        with self._news:
            self._news.wait_for(lambda: self._done or self._returned or self._death, wait_s)
            completions, self._done = self._done, []
            returned, self._returned = tuple(self._returned), []
            return Told(completions, self._spent, self._rates, self._load, self._death, returned)

    def close(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()
        self._thread.join()

    def _live(self) -> None:
        death = Death("its engine ended, and did not say why")
        try:
            self._run()
        except EngineDied as died:
            death = Death(str(died), died.suspects, died.newest)
        except (OSError, RuntimeError, ValueError) as fault:  # told to whoever drives it, on whatever machine that is
            death = Death(f"{type(fault).__name__}: {fault}")
        finally:
            with self._news:
                self._death, self._ready = death, True
                self._news.notify_all()

    def _run(self) -> None:
        order, section = self._order, self._order.section.model_copy(update={"replicas": 1})
        os.chdir(order.folder)
        with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch, Meter(Path(scratch) / "replica") as meter:
            opened = open_engine(
                section, order.lane, Path(scratch) / "engine.log", lambda: self._ended, meter, order.kv_tokens,
                tenant=order.tenant, adapters=order.adapters,
            )  # fmt: skip
            with opened as engine:
                with self._news:
                    self._ready = True
                    self._news.notify_all()
                for completion in engine.run(self._requests()):
                    self._finished(completion, meter, engine)

    def _requests(self) -> Iterator[Request | None]:
        while not self._ended:
            with self._news:
                if not self._in_flight:
                    self._news.wait_for(lambda: self._asked or self._ended, WAIT_S)
                request = self._asked.popleft() if self._asked else None
                self._in_flight += request is not None
            yield request

    def _finished(self, completion: Completion, meter: Meter, engine: Engine) -> None:
        with self._news:
            self._in_flight -= 1
            self._done.append(completion)
            self._spent, self._rates, self._load = meter.read(), engine.rates, engine.load
            self._news.notify_all()
