"""Judging by a command, seen from our side: a child process that reads pairs of answers and writes verdicts."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import to_builtins

from serving.intake.confine import environment
from serving.intake.process import AskedToStop, kill_group
from serving.judges.child import PASSED_ON
from serving.judges.command import Command
from serving.records import Comparison, Message

VERDICTS = {b"true": True, b"false": False}
LONGEST_LINE_BYTES = 64
POLL_S = 0.1
ENDING_S = 1.0  # between closing its output and being gone


class Heard(NamedTuple):
    """What a command said of the first so many pairs, and why it said nothing of the rest."""

    verdicts: list[bool]
    fault: str | None = None


class CommandJudge:
    """Runs the command once for all pairs: each is a line of JSON on its stdin, and a line on its stdout tells of it.

    A pair that it does not judge, since it dies, is silent for `timeout_s` or writes anything else, does not agree; how
    many these are is said once.
    """

    def __init__(
        self,
        command: Command,
        timeout_s: float,
        messages: Mapping[int, Sequence[Message]],
        log: Path,
        asked_to_stop: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        """`messages` are those of every request that is judged; `log` gets what the command writes to stderr."""
        self._command = command
        self._timeout_s = timeout_s
        self._messages = messages
        self._log = log
        self._asked_to_stop = asked_to_stop
        self._say = say

    def agree(self, comparisons: Sequence[Comparison]) -> list[bool]:
        """Raises AskedToStop: then nothing is judged."""
        if not comparisons:
            return []
        heard = self._heard(comparisons)
        missing = len(comparisons) - len(heard.verdicts)
        if heard.fault is not None:
            self._say(
                f"quality.command: {missing} of {len(comparisons)} pairs were not judged and count as wrong, since"
                f" {heard.fault}; its stderr is in {self._log}"
            )
        return heard.verdicts + [False] * missing

    def _heard(self, comparisons: Sequence[Comparison]) -> Heard:
        with (
            tempfile.TemporaryDirectory(prefix="gristmill-", ignore_cleanup_errors=True) as folder,
            os.fdopen(os.memfd_create("pairs"), "w+", encoding="ascii") as pairs,
            self._log.open("ab") as log,
        ):
            for compared in comparisons:
                request = to_builtins(self._messages[compared.row])
                line = {"request": request, "answer": compared.answer, "reference": compared.reference}
                pairs.write(json.dumps(line) + "\n")
            pairs.seek(0)
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "serving.judges.child", self._order(folder)],
                stdin=pairs, stdout=subprocess.PIPE, stderr=log, env=environment(), start_new_session=True,
            )  # fmt: skip
            try:
                return self._listen(child, len(comparisons))
            finally:
                kill_group(child)
                assert child.stdout is not None
                child.stdout.close()

    def _order(self, folder: str) -> str:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        order = {"parent": os.getpid(), "folder": folder, "words": self._command.words, "environment": passed_on}
        return json.dumps(order)

    def _listen(self, child: "subprocess.Popen[bytes]", pairs: int) -> Heard:
        """To the end of its output, since a line too many means that no line is sure to be about its pair."""
        assert child.stdout is not None
        verdicts: list[bool] = []
        rest, last_s = b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while time.monotonic() - last_s < self._timeout_s:
                if self._asked_to_stop():
                    raise AskedToStop
                # Whatever it left behind may hold its output open. So its end counts, and what it wrote before it.
                ended = child.poll() is not None
                written = selector.select(0 if ended else POLL_S)
                if not written and not ended:
                    continue
                block = os.read(child.stdout.fileno(), 2**16) if written else b""
                *lines, rest = (rest + block).split(b"\n")
                lines += [rest] if (rest and not block) or len(rest) > LONGEST_LINE_BYTES else []
                for line in lines:
                    if len(verdicts) == pairs:
                        return Heard([], "it wrote more lines than there are pairs")
                    if line.strip() not in VERDICTS:
                        return Heard(verdicts, f"its line {len(verdicts) + 1} is neither true nor false")
                    verdicts.append(VERDICTS[line.strip()])
                    last_s = time.monotonic()
                if not block:
                    return Heard(verdicts, None if len(verdicts) == pairs else _end_of(child))
        fault = f"it gave no verdict for {self._timeout_s:g} s (quality.command_timeout_s)"
        return Heard(verdicts, None if len(verdicts) == pairs else fault)


def _end_of(child: "subprocess.Popen[bytes]") -> str:
    try:
        code = child.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return f"it ended with exit code {code}" if code >= 0 else f"{signal.Signals(-code).name} ended it"
