"""`gristmill schedule`: a job on a cron, served by this process until it is stopped."""

import os
from pathlib import Path

DEPLOYMENT = "gristmill-{stem}"


def serve(job: Path, overrides: list[str], runs: Path, cron: str) -> None:
    raise NotImplementedError
