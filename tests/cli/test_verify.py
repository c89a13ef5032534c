"""`verify`, `export` and `status` on a finished run; a flipped byte is found and named."""

import shutil
from pathlib import Path

import pytest

from tests.cli.command import Place, digests, one_line, row, rows

FILES = (
    "admitted/admit-requests-00000.parquet",
    "admitted/admit-refusals-00000.parquet",
    "decisions/collapse-members-00000.parquet",
    "decisions/route-routes-00000.parquet",
    "segments/w0001-000000.parquet",
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


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x01
    file.write_bytes(data)


def test_a_finished_run_verifies(finished: Place) -> None:
    done = finished.gristmill("verify")
    assert (done.code, done.err) == (0, "")
    assert "21 settled rows" in done.out


def test_verify_changes_nothing(finished: Place) -> None:
    before = digests(finished.only_run)
    finished.gristmill("verify")
    assert digests(finished.only_run) == before


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_found_and_its_file_named(copy: Place, name: str) -> None:
    file = copy.only_run / name
    flip(file, file.stat().st_size // 2)
    done = copy.gristmill("verify")
    assert done.code == 4
    assert name in one_line(done.err)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(copy: Place, name: str) -> None:
    (copy.only_run / name).unlink()
    done = copy.gristmill("verify")
    assert done.code == 4
    assert name in one_line(done.err)


@pytest.mark.parametrize("name", ["segments/w0001-000000.json", "admitted/admit.json", "run.json"])
def test_a_manifest_that_is_cut_short_is_found_and_named(copy: Place, name: str) -> None:
    file = copy.only_run / name
    file.write_bytes(file.read_bytes()[:40])
    done = copy.gristmill("verify")
    assert done.code == 4
    assert name in one_line(done.err)


@pytest.mark.parametrize("name", ["segments/w0001-000000.json", "admitted/admit.json", "run.json"])
def test_a_manifest_that_is_not_one_is_found_and_named(copy: Place, name: str) -> None:
    (copy.only_run / name).write_text("{}", encoding="utf-8")
    done = copy.gristmill("verify")
    assert done.code == 4
    assert name in one_line(done.err)


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
