"""What a person sees while a job runs: rows, tokens a second, time left, money. Nothing here decides anything."""

import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from serving.records import Usage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 10.0


class Progress(Protocol):
    def say(self, message: str) -> None: ...

    def start(self, rows: int, done: int) -> None:
        """Rows that admission let in, and how many of them are settled already."""

    def advance(self, rows: int, usage: Usage, usd: Decimal) -> None:
        """So many rows more are answered, by one engine run of `usage`; `usd` is the spend of the whole run so far."""

    def end(self) -> None: ...


class Silent:
    def say(self, message: str) -> None:
        pass

    def start(self, rows: int, done: int) -> None:
        pass

    def advance(self, rows: int, usage: Usage, usd: Decimal) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """For logs and pipes: a line when something begins, and one every ten seconds."""

    def __init__(self, budget_usd: Decimal | None) -> None:
        self._budget = f" of ${budget_usd}" if budget_usd is not None else ""
        self._rows = self._done = self._done_at_start = self._tokens = 0
        self._began = self._shown = time.monotonic()

    def say(self, message: str) -> None:
        self._began = self._began if self._tokens else time.monotonic()
        print(message, file=sys.stderr, flush=True)

    def start(self, rows: int, done: int) -> None:
        self._rows, self._done, self._done_at_start = rows, done, done

    def advance(self, rows: int, usage: Usage, usd: Decimal) -> None:
        self._done += rows
        self._tokens += usage.prompt_tokens + usage.completion_tokens
        if time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            print(f"  {self.figures(usd)}", file=sys.stderr, flush=True)

    def figures(self, usd: Decimal) -> str:
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        pace = (self._done - self._done_at_start) / elapsed_s
        left = f"{(self._rows - self._done) / pace:.0f} s left" if pace else "no pace yet"
        return f"{self._done}/{self._rows} rows, {self._tokens / elapsed_s:.0f} tokens/s, {left}, ${usd:.6f}{self._budget}"

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
        self._began = self._began if self._tokens else time.monotonic()
        self._console.print(message, markup=False, highlight=False)

    def start(self, rows: int, done: int) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().start(rows, done)
        columns = (TextColumn("answering"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
        self._bar = RichProgress(*columns, console=self._console)
        self._task = self._bar.add_task("answering", total=rows, completed=done, figures=f"{done}/{rows} rows")
        self._bar.start()

    def advance(self, rows: int, usage: Usage, usd: Decimal) -> None:
        self._done += rows
        self._tokens += usage.prompt_tokens + usage.completion_tokens
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, figures=self.figures(usd))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_for(budget_usd: Decimal | None, quiet: bool) -> Progress:
    if quiet:
        return Silent()
    return Bar(budget_usd) if sys.stderr.isatty() else Lines(budget_usd)
