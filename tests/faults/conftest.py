"""What every fault test needs: the shim, built once, and the fork servers."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.process import Command, Forges
from tests.faults.shim import build, can_build
from tests.faults.sweep import Sweep
from tests.object_store import ObjectStore, object_store

# A killed process leaves the same files wherever they lie, and here an fsync costs nothing.
IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not can_build():
        pytest.skip("NOT TESTED: no gcc, so no fault can be injected")
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def forges(shim: Path) -> Iterator[Forges]:
    servers = Forges(shim)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def command(shim: Path) -> Command:
    return Command(shim)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("objects")) as store:
        yield store


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Iterator[Sweep]:
    """A place for many trials, and one line of figures at the end."""
    folder = Path(tempfile.mkdtemp(prefix="gristmill-faults-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
    began = time.monotonic()
    found = Sweep(folder)
    yield found
    shutil.rmtree(folder, ignore_errors=True)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{request.node.name}: {found.summary}, {time.monotonic() - began:.0f} s")
