"""What a person sees while a job runs: rows, tokens a second, time left, money. Nothing here decides anything."""

import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from flows.terminal import printable
from serving.records import Usage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
DRAWN_EVERY_S = 0.1
Spent = Callable[[], Decimal]


class Progress(Protocol):
    def say(self, message: str) -> None: ...

    def start(self, rows: int, done: int) -> None:
        """Rows that admission let in, and how many of them are settled already."""

    def advance(self, rows: int, usage: Usage, spent_usd: Spent) -> None:
        """So many rows more are answered, by one engine run of `usage`; `spent_usd` tells the whole run's spend."""

    def end(self) -> None: ...


class Silent:
    def say(self, message: str) -> None:
        pass

    def start(self, rows: int, done: int) -> None:
        pass

    def advance(self, rows: int, usage: Usage, spent_usd: Spent) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """For logs and pipes: a line when something begins, and one every ten seconds."""

    def __init__(self, budget_usd: Decimal | None) -> None:
        self._budget = f" of ${budget_usd}" if budget_usd is not None else ""
        self._rows = self._done = self._done_at_start = self._tokens = 0
        self._answering_s = 0.0  # without the time in which an engine starts: a pace is one of answers
        self._last: float | None = None
        self._shown = time.monotonic()

    def say(self, message: str) -> None:
        self._last = None
        print(printable(message), file=sys.stderr, flush=True)

    def start(self, rows: int, done: int) -> None:
        self._rows, self._done, self._done_at_start = rows, done, done

    def advance(self, rows: int, usage: Usage, spent_usd: Spent) -> None:
        self._note(rows, usage)
        if time.monotonic() - self._shown >= LINE_EVERY_S and self._answering_s > 1.0:
            self._shown = time.monotonic()
            print(f"  {self.figures(spent_usd())}", file=sys.stderr, flush=True)

    def _note(self, rows: int, usage: Usage) -> None:
        now = time.monotonic()
        self._answering_s += now - self._last if self._last is not None else 0.0
        self._last = now
        self._done += rows
        self._tokens += usage.prompt_tokens + usage.completion_tokens

    def figures(self, usd: Decimal) -> str:
        spent = f"${usd:.6f}{self._budget}"
        if self._answering_s < 0.5:
            return f"{self._done}/{self._rows} rows, {spent}"
        left_s = (self._rows - self._done) * self._answering_s / max(1, self._done - self._done_at_start)
        pace = f"{self._tokens / self._answering_s:.0f} tokens/s, some {left_s:.0f} s left"
        return f"{self._done}/{self._rows} rows, {pace}, {spent}"

    def end(self) -> None:
        pass


class Bar(Lines):
    """For terminals: one bar that stays in place."""

    def __init__(self, budget_usd: Decimal | None) -> None:
        from rich.console import Console

        super().__init__(budget_usd)
        self._console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def say(self, message: str) -> None:
        self._last = None
        self._console.print(printable(message), markup=False, highlight=False)

    def start(self, rows: int, done: int) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().start(rows, done)
        self.end()  # of what was answered before
        columns = (TextColumn("answering"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
        self._bar = RichProgress(*columns, console=self._console)
        self._task = self._bar.add_task("answering", total=rows, completed=done, figures=f"{done}/{rows} rows")
        self._bar.start()

    def advance(self, rows: int, usage: Usage, spent_usd: Spent) -> None:
        self._note(rows, usage)
        if self._bar is None or self._task is None:
            return
        if self._done == self._rows or time.monotonic() - self._shown >= DRAWN_EVERY_S:
            self._shown = time.monotonic()
            self._bar.update(self._task, completed=self._done, figures=self.figures(spent_usd()))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_for(budget_usd: Decimal | None, quiet: bool) -> Progress:
    if quiet:
        return Silent()
    return Bar(budget_usd) if sys.stderr.isatty() else Lines(budget_usd)
