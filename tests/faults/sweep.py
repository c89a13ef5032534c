"""The points of a sweep, what fired and what was violated: figures first, then one assertion over all of them."""

import re
import shutil
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

SHOWN, LINE = 24, 700
NAMES = re.compile(r"/[^ ,:]*|\b[0-9a-f]*[0-9][0-9a-f]*\b|[0-9]+")  # paths, numbers, digests

Trial = Callable[[Path], tuple[bool, list[str]]]  # in its folder: did the fault fire, and what was violated?


@dataclass(slots=True)
class Sweep:
    """Trials of many points. Two threads may work on one sweep."""

    folder: Path
    points: int = 0
    silent: list[str] = field(default_factory=list)  # the points at which nothing fired
    violations: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trial(self, name: str, trial: Trial) -> None:
        """Run one point in a folder of its own. One that breaks off, say over a file that is gone, is a violation."""
        fired = True

        def tried() -> list[str]:
            nonlocal fired
            fired, violations = trial(self.folder / name)
            return violations

        self.judge(name, tried)
        self.point(name, fired)

    def judge(self, name: str, judged: Callable[[], list[str]]) -> None:
        """Note what was violated in a folder, which goes."""
        try:
            violations = judged()
        except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError, duckdb.Error):
            violations = [f"broke off: {traceback.format_exc(limit=-3)}"]
        with self._lock:
            self.violations += [f"{name}: {line[:LINE]}" for line in violations]
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def point(self, name: str, fired: bool) -> None:
        with self._lock:
            self.points += 1
            if not fired:
                self.silent.append(name)

    def note(self, what: str) -> None:
        with self._lock:
            self.notes[what] = self.notes.get(what, 0) + 1

    @property
    def summary(self) -> str:
        notes = "".join(f", {count} {what}" for what, count in sorted(self.notes.items()))
        fired = self.points - len(self.silent)
        return f"{self.points} points, {fired} fired, {len(self.violations)} violations{notes}"

    def assert_lawful(self, least_points: int = 1) -> None:
        """Every fault fired, and nothing was violated."""
        shown = "\n".join([self.summary, *self.silent[:SHOWN], *self._of_each_kind()])
        assert self.points >= least_points, shown
        assert not self.silent, f"a fault that does not fire tests nothing: {shown}"
        assert not self.violations, shown

    def _of_each_kind(self) -> list[str]:
        """One violation for all that differ in numbers alone, with how many they are."""
        kinds: dict[str, list[str]] = {}
        for violation in self.violations:
            kinds.setdefault(NAMES.sub("", violation), []).append(violation)
        return [f"{len(alike)} like {alike[0].replace(str(self.folder), '')}" for alike in kinds.values()][:SHOWN]
