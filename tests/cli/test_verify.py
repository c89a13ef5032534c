"""`verify`, `export` and `status` on a finished run; a flipped byte is found and named."""

import shutil
from pathlib import Path

import pytest

from serving.store.run import Run
from serving.store.sealed import Corrupt
from serving.store.verify import verify
from tests.cli.command import Place, digests, one_line, row, rows

FILES = (
    "admitted/admit-requests-00000-00000.parquet",
    "admitted/admit-refusals-00000-00000.parquet",
    "decisions/collapse-members-00000.parquet",
    "decisions/route-routes-00000.parquet",
    "segments/0001-full-000000.parquet",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("finished"))
    place.job()
    place.prompts([*rows(20), row("again", "prompt number 0"), {"custom_id": "bad"}])
    assert place.run().code == 0
    return place


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """The same run, for a test to spoil."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path)


def flip(file: Path) -> None:
    """One bit, in the middle of the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


def test_a_finished_run_verifies(finished: Place) -> None:
    done = finished.gristmill("verify")
    assert (done.code, done.err) == (0, "")
    assert "21 settled rows" in done.out


def test_verify_changes_nothing(finished: Place) -> None:
    before = digests(finished.only_run)
    finished.gristmill("verify")
    assert digests(finished.only_run) == before


def test_one_flipped_byte_is_exit_code_4_and_its_file_is_named(copy: Place) -> None:
    flip(copy.only_run / FILES[-1])
    done = copy.gristmill("verify")
    assert (done.code, done.out) == (4, "")
    assert FILES[-1] in one_line(done.err)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_table_is_found(copy: Place, name: str) -> None:
    flip(copy.only_run / name)
    with pytest.raises(Corrupt, match=name):
        verify(Run(copy.only_run))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_table_is_found(copy: Place, name: str) -> None:
    (copy.only_run / name).unlink()
    with pytest.raises(Corrupt, match=name):
        verify(Run(copy.only_run))


@pytest.mark.parametrize("text", ['{"rows": 21, "sha', "{}", "[]", "null"], ids=["cut short", "empty", "list", "null"])
@pytest.mark.parametrize("name", ["segments/0001-full-000000.json", "admitted/admit.json", "run.json"])
def test_a_manifest_that_is_not_one_is_found(copy: Place, name: str, text: str) -> None:
    (copy.only_run / name).write_text(text, encoding="utf-8")
    with pytest.raises(Corrupt, match=name):
        verify(Run(copy.only_run))


# What a run is billed by, what it was billed, what its user takes away: (file, what stands there, what is put there).
CHANGED = {
    "the price": ("run.json", '"usd_per_hour": "3600"', '"usd_per_hour": "3601"'),
    "an overhead": ("segments/0001-full-000000.json", '"kind": "start_up"', '"kind": "start_op"'),
    "an answer": ("export/results.jsonl", "prompt number 7", "prompt number 8"),
}


@pytest.mark.parametrize(("name", "old", "new"), CHANGED.values(), ids=CHANGED.keys())
def test_a_changed_figure_or_answer_is_found(copy: Place, name: str, old: str, new: str) -> None:
    file = copy.only_run / name
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(Corrupt, match=name):
        verify(Run(copy.only_run))


def test_export_writes_the_same_bytes_again(copy: Place) -> None:
    before = digests(copy.only_run / "export")
    for name in ("results.jsonl", "errors.jsonl"):
        (copy.only_run / "export" / name).unlink()
    done = copy.gristmill("export")
    assert done.code == 0
    assert [Path(line).name for line in done.out.splitlines()] == ["results.jsonl", "errors.jsonl"]
    assert digests(copy.only_run / "export") == before


def test_every_row_is_in_results_or_in_errors(finished: Place) -> None:
    assert (len(finished.results), len(finished.errors)) == (21, 1)


def test_status_of_a_finished_run(finished: Place) -> None:
    done = finished.gristmill("status")
    assert done.code == 0
    assert f"{finished.only_run.name}: finished" in done.out
    assert "rows in 22 = 21 answered + 0 failed + 1 refused + 0 open" in done.out


def test_a_run_is_found_by_the_start_of_its_id(finished: Place) -> None:
    assert "finished" in finished.gristmill("status", finished.only_run.name[:9]).out


def test_the_ledger_file_can_be_deleted_and_is_made_again(copy: Place) -> None:
    (copy.folder / "runs" / "ledger.duckdb").unlink()
    assert copy.gristmill("costs", "by-run").code == 0
    assert (copy.folder / "runs" / "ledger.duckdb").exists()
