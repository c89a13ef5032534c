"""Two tenants of one installation: the same work, and nothing in common."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cli.command import Place, row
from tests.security.test_secrets import holding
from tests.serving.engines.openai_stub import OpenAIStub

CANARY = "canaryoftenanta5512"
SAME = [row("x", "what both of them ask"), row("y", "and another thing")]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> "Both":
    """The same job run by two tenants, one of whom asks one thing more; their run folders, and their salts."""
    place = Place(tmp_path_factory.mktemp("tenants"))
    runs: dict[str, list[Path]] = {"a": [], "b": []}
    salts: dict[str, set[str | None]] = {"a": set(), "b": set()}
    with OpenAIStub() as stub:
        place.job(engine=f'kind = "http"\nbase_url = "{stub.base_url}"\ncache_salt = true')
        for tenant, prompts in (("a", SAME), ("b", SAME), ("a", [*SAME, row("z", CANARY)])):
            place.prompts(prompts)
            before, asked_before = set(place.runs), len(stub.served)
            done = place.run("--set", f"tenant.name={tenant}")
            assert done.code == 0, done.err
            runs[tenant] += set(place.runs) - before
            salts[tenant] |= {asked.body.get("cache_salt") for asked in stub.served[asked_before:]}
            assert len(stub.served) > asked_before, "no request was sent: an answer was taken from another run"
    return place, runs, salts


Both = tuple[Place, dict[str, list[Path]], dict[str, set[str | None]]]


def admitted(run: Path) -> dict[str, str]:
    """By custom_id, the key under which a row's answer may be shared."""
    found: dict[str, str] = {}
    for file in run.rglob("*.parquet"):
        table = pq.read_table(file)
        if {"key", "custom_id"} <= set(table.column_names):
            found |= dict(zip(table["custom_id"].to_pylist(), map(str, table["key"].to_pylist()), strict=True))
    return found


def test_the_same_input_and_settings_are_another_run_for_another_tenant(both: Both) -> None:
    assert (len(both[1]["a"]), len(both[1]["b"])) == (2, 1)


def test_equal_prompts_have_different_keys_so_no_answer_is_shared(both: Both) -> None:
    a, b = admitted(both[1]["a"][0]), admitted(both[1]["b"][0])
    assert set(a) == set(b) == {"x", "y"}
    assert set(a.values()).isdisjoint(b.values())


def test_each_tenant_asks_the_server_under_a_salt_of_its_own(both: Both) -> None:
    (a,), (b,) = both[2]["a"], both[2]["b"]
    assert a is not None
    assert b is not None
    assert re.fullmatch(r"[0-9a-f]{32}", a)
    assert re.fullmatch(r"[0-9a-f]{32}", b)
    assert a != b


def test_what_one_tenant_asks_is_in_no_file_of_the_other(both: Both) -> None:
    place, runs, _ = both
    names = holding(place, CANARY)
    of_a = f"runs/{runs['a'][1].name}/"
    assert any(name.startswith(of_a) for name in names)  # the search does find what is there
    assert [name for name in names if not name.startswith(of_a)] == ["prompts.jsonl"]  # a's own input


def test_the_ledger_tells_the_tenants_apart(both: Both) -> None:
    place, runs, _ = both
    found: list[dict[str, Any]] = place.ask(
        "SELECT tenant, run_id, count(*) AS rows FROM runs JOIN rows USING (run_id) GROUP BY ALL ORDER BY tenant, rows"
    )
    assert found == [
        {"tenant": "a", "run_id": runs["a"][0].name, "rows": 2},
        {"tenant": "a", "run_id": runs["a"][1].name, "rows": 3},
        {"tenant": "b", "run_id": runs["b"][0].name, "rows": 2},
    ]
