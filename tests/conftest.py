"""How two processes share the tests: a file stays together, and real engines and servers take turns, first of all."""

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# No example fails for its time: these machines are shared, and a law is no slower for being late.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")

REAL = ("flows/test_real_models.py", "flows/test_prefect.py", "serving/engines/test_real_servers.py")


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "real" if file.endswith(REAL) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not str(item.path).endswith(REAL))
