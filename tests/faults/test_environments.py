"""Another language, another time, no home, no mask: the same bytes, for nobody else to read."""

import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.files import only_run
from tests.faults.jobs import BY_TOKENS, Job, Row, make_job, some_rows
from tests.faults.laws import expected_code
from tests.faults.process import Command, side_by_side
from tests.faults.sweep import Sweep

pytestmark = pytest.mark.faults

FIXED = {"SOURCE_DATE_EPOCH": "1700000000"}
FOREIGN = "Größe 大きさ 😀 \u202e"


@dataclass(frozen=True, slots=True)
class Environment:
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    umask: int | None = None


ENVIRONMENTS = {
    "plain": Environment(),
    "no-locale": Environment({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "no-home": Environment(without=("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")),
    "home-that-is-not-there": Environment({"HOME": "/nonexistent"}),
    "open-mask": Environment(umask=0),
    "closed-mask": Environment(umask=0o777 & ~0o700),
    "far-east": Environment({"TZ": "Pacific/Kiritimati"}),
    "far-west": Environment({"TZ": "Etc/GMT+12"}),
    "no-zone": Environment({"TZ": "Nowhere/At_All"}),
    "narrow-terminal": Environment({"COLUMNS": "10", "TERM": "dumb"}),
}


def test_the_environment_changes_no_byte_of_what_comes_out(command: Command, sweep: Sweep) -> None:
    outputs: dict[str, dict[str, bytes]] = {}

    def point(name: str) -> None:
        job = make_job(sweep.folder / name, [*some_rows(20), Row("id-foreign", FOREIGN)], BY_TOKENS, shipped=True)
        sweep.trial(name, lambda _: in_environment(job, ENVIRONMENTS[name]))

    def in_environment(job: Job, environment: Environment) -> tuple[bool, list[str]]:
        ended = command(
            job.start(variables=FIXED | environment.variables, without=environment.without, umask=environment.umask)
        )
        if ended.code != expected_code(job):
            return True, [f"ended with {ended.code}: {ended.err.strip()[-300:]}"]
        run = only_run(job.runs)
        assert run is not None
        outputs[job.folder.name] = {
            name: (run / "export" / name).read_bytes() for name in ("results.jsonl", "errors.jsonl")
        }
        return True, open_to_others(job.runs)

    side_by_side(point, ENVIRONMENTS)
    differ = {name: out for name, out in outputs.items() if out != outputs["plain"]}
    assert not differ, f"other bytes in {', '.join(differ)}"
    sweep.assert_lawful(least_points=len(ENVIRONMENTS))


def open_to_others(folder: Path) -> list[str]:
    """Files are 0600 and folders 0700."""
    found = [(path, stat.S_IMODE(path.stat().st_mode)) for path in (folder, *folder.rglob("*"))]
    wrong = [f"{path.relative_to(folder.parent)} {mode:o}" for path, mode in found if mode & 0o077]
    return [f"open to others: {', '.join(wrong)}"] if wrong else []
