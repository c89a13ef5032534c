"""Who may send now: as many as the window has room for, and nobody while the server has asked us to wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.engines.openai_api.concurrency import Window


class Slots:
    """For tasks of one event loop. Whoever has to wait sleeps until there is a reason to wake."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._taken = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[int]:
        """A slot for one request; gives its ticket once it may be sent."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._taken < self._window.limit)
            self._taken += 1
        try:
            while held_s := self._window.held_s(time.monotonic()):
                await asyncio.sleep(held_s)
            yield self._window.send()
        finally:
            self._taken -= 1
            async with self._freed:
                self._freed.notify(max(0, self._window.limit - self._taken))
