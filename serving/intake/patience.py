"""How long foreign code may take: a limit for each call, and one for all calls by how many there were."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from serving.intake.files import BadInput

# CPU time, so that a machine that is busy with others makes nothing look slow. Templates take a tenth of a millisecond.
AT_MOST_S = 1.0
AGAIN_S = 0.05  # once a call is over its time it is told so until it ends
ALL_AT_MOST_S, MORE_PER_CALL_S = 1.5, 0.01


class OutOfTime(BaseException):
    """Not an Exception, so that no code which handles those keeps it to itself."""


class Patience:
    def __init__(self) -> None:
        self.at_most_s = AT_MOST_S
        self._calls = 0
        self._used_s = 0.0

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Limit the block to `at_most_s` of CPU time, where this thread may set timers.

        Raises:
            OutOfTime: from within the block.
            BadInput: the calls before took too long together.
        """
        if self._used_s > ALL_AT_MOST_S + MORE_PER_CALL_S * self._calls:
            reason = f"the model's chat template took {self._used_s:.1f} s for {self._calls} rows; mend its loops"
            raise BadInput("E_TEMPLATE", reason)
        began_s = time.process_time()
        try:
            with _timer(self.at_most_s):
                yield
        finally:
            self._calls += 1
            self._used_s += time.process_time() - began_s


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
