"""Which of several engines answers which request: neighbours stay together, and none is idle while another has some."""

from collections import deque
from collections.abc import Iterable, Iterator

from serving.records import Request


class Leases:
    """Requests dealt to `replicas` engines, so many in a row at once that what they have in common is computed again
    only where one lease ends and the next begins.

    Once all are dealt, an engine that is through takes over half of what the most laden one has not begun, so that the
    last rows do not wait for one engine. Nothing is pulled that no engine asks for.
    """

    def __init__(self, requests: Iterator[Request | None], replicas: int, rows: int) -> None:
        self._requests = requests
        self._rows = rows
        self._held: list[deque[Request]] = [deque() for _ in range(replicas)]
        self._returned: deque[Request] = deque()
        self._more = True

    @property
    def left(self) -> bool:
        """False once every request has been handed to an engine."""
        return self._more or bool(self._returned) or any(self._held)

    def next_of(self, replica: int) -> Request | None:
        """The next for this engine; None where there is none now, or none any more."""
        held = self._held[replica]
        if not held:
            self._lease(held)
        return held.popleft() if held else None

    def give_back(self, requests: Iterable[Request]) -> None:
        """What an engine has not answered that is gone; whoever asks next gets it, before anything new."""
        self._returned.extend(requests)

    def _lease(self, held: deque[Request]) -> None:
        while self._returned and len(held) < self._rows:
            held.append(self._returned.popleft())
        while self._more and len(held) < self._rows:
            try:
                request = next(self._requests)
            except StopIteration:
                self._more = False
                break
            if request is None:  # none for now: it may be that the budget cannot bear another
                break
            held.append(request)
        if not held:
            most = max(self._held, key=len)
            held.extendleft([most.pop() for _ in range((len(most) + 1) // 2)])
