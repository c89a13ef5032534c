"""What a person sees while a job runs: rows, tokens a second, time left, money. Nothing here decides anything."""

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flows.pace import Ahead, Now, Pace, Tell
from flows.terminal import printable
from serving.records import Usage
from serving.store.durable import WRITING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
DRAWN_EVERY_S = 0.5
NOTED_EVERY_S = 1.0
NARROW = 0.1  # of the time left: an interval that is narrower is not worth its words


class Progress(Protocol):
    def say(self, message: str) -> None: ...

    def start(self, rows: int, done: int) -> None:
        """Rows that admission let in, and how many of them are settled already."""

    def begin(self, ahead: Ahead) -> None:
        """An engine is ready."""

    def more(self, ahead: Ahead) -> None:
        """It is to run these as well."""

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        """So many rows more are answered, by one request of `usage` that could have put out `most_tokens`; `tell` tells
        how things stand, if asked."""

    def end(self) -> None: ...


class Silent:
    def say(self, message: str) -> None:
        pass

    def start(self, rows: int, done: int) -> None:
        pass

    def begin(self, ahead: Ahead) -> None:
        pass

    def more(self, ahead: Ahead) -> None:
        pass

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """For logs and pipes: a line when something begins, and one every ten seconds."""

    def __init__(self, budget_usd: Decimal | None) -> None:
        self._budget_usd = budget_usd
        self._pace = Pace()
        self._shown = time.monotonic()

    def say(self, message: str) -> None:
        print(printable(message), file=sys.stderr, flush=True)

    def start(self, rows: int, done: int) -> None:
        self._pace.rows, self._pace.done = rows, done

    def begin(self, ahead: Ahead) -> None:
        self._pace.begin(ahead)

    def more(self, ahead: Ahead) -> None:
        self._pace.more(ahead)

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        self._pace.advance(rows, usage, most_tokens)
        if time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            print(f"  {in_words(standing(self._pace, tell(), self._budget_usd))}", file=sys.stderr, flush=True)

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

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        self._pace.advance(rows, usage, most_tokens)
        if self._bar is None or self._task is None:
            return
        if self._pace.done == self._pace.rows or time.monotonic() - self._shown >= DRAWN_EVERY_S:
            self._shown = time.monotonic()
            told = in_words(standing(self._pace, tell(), self._budget_usd))
            self._bar.update(self._task, completed=self._pace.done, figures=told)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_for(budget_usd: Decimal | None, quiet: bool) -> Progress:
    if quiet:
        return Silent()
    return Bar(budget_usd) if sys.stderr.isatty() else Lines(budget_usd)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, as it is shown in a terminal, by `gristmill status` and in Prefect."""

    unix_s: float
    rows: int
    done: int
    tokens_per_s: float | None
    left_s: float | None
    left_s_low_90: float | None
    left_s_high_90: float | None
    usd: str
    budget_usd: str | None


def standing(pace: Pace, now: Now, budget_usd: Decimal | None) -> Standing:
    left = pace.left_s(now)
    return Standing(
        unix_s=time.time(),
        rows=pace.rows,
        done=pace.done,
        tokens_per_s=pace.tokens_per_s(now),
        left_s=None if left is None else left.value,
        left_s_low_90=None if left is None else left.low_90,
        left_s_high_90=None if left is None else left.high_90,
        usd=f"{now.usd:.6f}",
        budget_usd=None if budget_usd is None else str(budget_usd),
    )


def in_words(told: Standing) -> str:
    pace = [] if told.tokens_per_s is None else [f"{told.tokens_per_s:.0f} tokens/s"]
    left = [] if told.left_s is None else [f"some {_left(told)} left"]
    budget = "" if told.budget_usd is None else f" of ${told.budget_usd}"
    return ", ".join([f"{told.done}/{told.rows} rows", *pace, *left, f"${told.usd}{budget}"])


def _left(told: Standing) -> str:
    assert told.left_s is not None
    assert told.left_s_low_90 is not None
    assert told.left_s_high_90 is not None
    if told.left_s_high_90 - told.left_s_low_90 <= NARROW * told.left_s:
        return f"{told.left_s:.0f} s"
    return f"{told.left_s:.0f} s ({told.left_s_low_90:.0f} to {told.left_s_high_90:.0f})"


class Noted:
    """What another progress shows, noted in a file as well, for whoever looks on from elsewhere. It is no truth of the
    run, so it need not outlive a power failure."""

    def __init__(self, shown: Progress, file: Path, budget_usd: Decimal | None) -> None:
        self._shown, self._file, self._budget_usd = shown, file, budget_usd
        self._aside = file.with_name(f".{file.name}{WRITING}")
        self._pace = Pace()
        self._noted_s = 0.0
        self.say, self.end = shown.say, shown.end

    def start(self, rows: int, done: int) -> None:
        self._pace.rows, self._pace.done = rows, done
        self._shown.start(rows, done)

    def begin(self, ahead: Ahead) -> None:
        self._pace.begin(ahead)
        self._shown.begin(ahead)

    def more(self, ahead: Ahead) -> None:
        self._pace.more(ahead)
        self._shown.more(ahead)

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        self._pace.advance(rows, usage, most_tokens)
        self._shown.advance(rows, usage, most_tokens, tell)
        if time.monotonic() - self._noted_s >= NOTED_EVERY_S:
            self._noted_s = time.monotonic()
            self.note(standing(self._pace, tell(), self._budget_usd))

    def note(self, told: Standing) -> None:
        with suppress(OSError):  # a disk that is full ends a run where that matters, and not here
            self._aside.write_text(json.dumps(asdict(told)), encoding="ascii")
            self._aside.replace(self._file)

    def forget(self) -> None:
        """Take the note away, and what a fault or a kill left of one."""
        for file in (self._file, self._aside):
            with suppress(OSError):
                file.unlink()


def noted_in(file: Path) -> Standing | None:
    """What a run that goes on has noted last; None where it has not, or not yet."""
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="ascii"))
        return Standing(**told)
    except (OSError, ValueError, TypeError):
        return None
