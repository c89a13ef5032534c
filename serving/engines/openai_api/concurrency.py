"""How many requests a server is given at once: more while it keeps up, half when it says that it does not (AIMD).

It knows no clock and no network; times are seconds of whatever clock its caller uses.
"""

FIRST_LIMIT = 4


class Window:
    """Never below 1, never above `ceiling`. Every request that is sent has a ticket, and brings it back.

    Up to the first overload each answer adds one, so that the window doubles with each round trip; from then on a whole
    window of answers does. What was sent before a cut says nothing about the window after it: it neither cuts nor adds.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(FIRST_LIMIT, ceiling)
        self._sent = self._sent_before_cut = 0
        self._answered = 0  # in a row, since the limit changed
        self._ramping = True
        self._hold_until_s = 0.0

    def send(self) -> int:
        """The ticket of a request that is sent now."""
        self._sent += 1
        return self._sent

    def answered(self, ticket: int) -> None:
        if ticket <= self._sent_before_cut or self.limit == self._ceiling:
            return
        self._answered += 1
        if self._ramping or self._answered >= self.limit:
            self.limit += 1
            self._answered = 0

    def overloaded(self, ticket: int) -> None:
        if ticket <= self._sent_before_cut:
            return
        self.limit = max(1, self.limit // 2)
        self._sent_before_cut = self._sent
        self._answered = 0
        self._ramping = False

    def hold(self, until_s: float) -> None:
        """Nothing is to be sent before then; what holds longer counts."""
        self._hold_until_s = max(self._hold_until_s, until_s)

    def held_s(self, now_s: float) -> float:
        """How long nothing may be sent from now on."""
        return max(0.0, self._hold_until_s - now_s)
