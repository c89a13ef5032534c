from pathlib import Path

import pytest

from tests.cli.command import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with a job that echoes; its prompts are the test's to write."""
    found = Place(tmp_path)
    found.job()
    return found
