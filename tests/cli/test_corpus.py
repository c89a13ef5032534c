"""Bad input against the real command: every seed ends in its code, soon, in little memory, and spends nothing."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, Place
from tests.corpus.seeds import SEEDS, Seed, row_seeds

MOST_MIB, MOST_S = 512, 5.0
EXIT_CODES = {0, 1, 2, 3, 4, 5, 130}


def run(place: Place, *arguments: str, most_s: float = MOST_S) -> Done:
    """`gristmill run`, measured; checked for what no input may do, whatever it is."""
    told = place.gristmill("run", "job.toml", "--quiet", *arguments, limit_s=120)
    assert told.code in EXIT_CODES, told
    assert "Traceback" not in told.err
    # A machine that is busy with others makes the clock run on while nothing is done; a hang shows in both.
    assert min(told.wall_s, told.cpu_s) < most_s, told
    assert told.most_mib < MOST_MIB, told
    return told


def codes(place: Place) -> list[str]:
    return [line["error"]["code"] for line in place.errors]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.number}-{seed.name}")
def test_a_seed_ends_as_it_must(place: Place, seed: Seed) -> None:
    place.job(dataset=f'path = "{seed.name}"\n{seed.job}')
    seed.put(place.folder)
    told = run(place, most_s=seed.most_s)
    if seed.code is None:
        assert (told.code, codes(place)) == (0, [])
    elif seed.whole:
        assert_refused_whole(place, told, seed.code, seed.name)
    else:
        assert set(codes(place)) == {seed.code}
        assert all(line["error"]["file"] == seed.name and line["error"]["line"] for line in place.errors)


def assert_refused_whole(place: Place, told: Done, code: str, name: str) -> None:
    assert told.code == 2, told
    assert re.match(rf"gristmill: {code} [^\n]+\n$", told.err), told.err
    assert name in told.err
    assert re.search("[;,] [a-z]", told.err), "no way out"
    assert place.runs == []
    assert not list((place.folder / "runs").glob("*/segments/*"))


@pytest.fixture(scope="module")
def rows_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Every seed that is a row, in one file and one run."""
    place = Place(tmp_path_factory.mktemp("rows"))
    place.job(dataset='path = "rows.jsonl"')
    (place.folder / "rows.jsonl").write_bytes(b"\n".join(line for _, _, line in row_seeds()))
    assert run(place).code == 0
    return place


def test_each_row_is_refused_by_its_code_or_answered(rows_place: Place) -> None:
    found = {line["error"]["line"]: line["error"]["code"] for line in rows_place.errors}
    expected = {number: code for number, (_, code, _) in enumerate(row_seeds(), start=1) if code != "ok"}
    assert found == expected
    assert len(rows_place.results) == len(row_seeds()) - len(expected)


def test_each_reason_is_short_clean_and_names_a_way_out(rows_place: Place) -> None:
    for line in rows_place.errors:
        reason: str = line["error"]["message"]
        assert reason.isprintable(), line
        assert len(reason) < 400, line
        assert re.search("[;,] |must|at most", reason), line
        assert not re.search(r"(\w)\1{80}", reason), "a value of over 80 characters"


# B36 to B40 are no files.


def test_a_file_that_changes_after_it_was_hashed_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """B36; through the stage itself, since the change must fall between two steps of the command."""
    from flows.admit import admit
    from flows.open import open_work
    from flows.progress import Silent
    from serving.config import load_job
    from serving.intake.files import BadInput

    monkeypatch.chdir(place.folder)
    place.prompts([{"id": "a", "prompt": "as it was"}])
    work = open_work(load_job(place.folder / "job.toml"), place.folder / "runs", Silent())
    place.prompts([{"id": "a", "prompt": "as it is now"}])
    with pytest.raises(BadInput, match=r"E_HASH prompts\.jsonl: changed while it was read"), work.held():
        admit(work)
    assert place.runs == []


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "0", '"much"', "1e400"])
def test_a_price_that_is_none_is_refused(place: Place, value: str) -> None:
    """B38."""
    place.prompts([{"id": "a", "prompt": "x"}])
    told = run(place, "--set", f"price.usd_per_hour={value}")
    assert (told.code, place.runs) == (2, [])
    assert "price" in told.err


TEMPLATES = {
    "globals": "{{ lipsum.__globals__ }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "range": "{% for x in range(1000000000) %}x{% endfor %}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "repeated": "{{ 'a' * 2000000000 }}",
    "repeated-late": "{{ messages[0].role * 2000000000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "padded": "{{ 'a'.ljust(2000000000) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "growing": "{% set n = namespace(x='a') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "file": "{% include '/etc/passwd' %}",
    "syntax": "{% for %}",
    "nested": "{% if true %}" * 200 + "{% endif %}" * 200,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a model as admission needs."""
    from tests.serving.intake.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_attacks_is_refused(place: Place, model: Path, name: str) -> None:
    """B40. Echo answers without a model; the folder only brings its template and its tokenizer."""
    (model / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    place.job(model=str(model))
    place.prompts([{"id": f"id-{n}", "prompt": "hello"} for n in range(5)])
    told = run(place)
    found: list[Any] = [told.err.split()[1]] if told.code == 2 else codes(place)
    assert found
    assert set(found) <= {"E_TEMPLATE", "E_TOO_LONG"}
    assert place.segments == []
