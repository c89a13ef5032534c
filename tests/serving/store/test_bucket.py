"""What a bucket and its copy do, one by one, with a store in memory."""

import os
from pathlib import Path

import obstore
import pytest

from serving.store.bucket import Bucket, BucketFault, bucket_of, is_url, mount, name_of, unmount
from serving.store.lease import is_alive, leased


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket("memory:///", tmp_path / "here" / "copy", of_runs=True)


def beside(bucket: Bucket, copy: Path) -> Bucket:
    """Another machine's."""
    other = Bucket("memory:///", copy / "copy", of_runs=True)
    other._store = bucket._store
    return other


def test_what_is_put_is_what_another_machine_pulls(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put(bucket.copy / "run" / "run.json", b"facts")
    other = beside(bucket, tmp_path / "other")
    other.pull()
    assert (other.copy / "run" / "run.json").read_bytes() == b"facts"


def test_of_a_folder_of_runs_nothing_else_is_copied_and_of_another_all_is(tmp_path: Path) -> None:
    runs, all_of_it = (
        Bucket("memory:///", tmp_path / name / "copy", of_runs=name == "runs") for name in ("runs", "all")
    )
    all_of_it._store = runs._store
    for name in ("run/run.json", "prompts.jsonl", "models/meters/config.json"):
        obstore.put(runs._store, name, b"x")
    for bucket, names in ((runs, ["run.json"]), (all_of_it, ["config.json", "prompts.jsonl", "run.json"])):
        bucket.pull()
        assert sorted(file.name for file in bucket.copy.rglob("*") if file.is_file()) == names


def test_a_run_that_has_only_been_taken_is_pulled_by_whoever_took_it(bucket: Bucket) -> None:
    taken = bucket.copy / "run" / "segments" / "writer-0001.json"
    bucket.put(taken, b"who", new=True)
    bucket.fetch(taken)
    bucket.pull(bucket.copy / "run")
    assert taken.exists()


def test_of_two_that_make_a_file_new_the_second_gets_the_first_ones(bucket: Bucket, tmp_path: Path) -> None:
    other = beside(bucket, tmp_path / "other")
    bucket.put(bucket.copy / "run" / "writer-0001.json", b"one", new=True)
    with pytest.raises(FileExistsError):
        other.put(other.copy / "run" / "writer-0001.json", b"two", new=True)
    assert (other.copy / "run" / "writer-0001.json").read_bytes() == b"one"


def test_what_was_taken_although_its_answer_was_lost_is_ours(bucket: Bucket) -> None:
    file = bucket.copy / "run" / "writer-0001.json"
    bucket.put(file, b"one")
    bucket.put(file, b"one", new=True)


def test_a_file_that_grew_is_its_appends_up_to_the_first_gap(bucket: Bucket, tmp_path: Path) -> None:
    journal = bucket.copy / "run" / "segments" / "0001-full-000000.journal"
    bucket.put(bucket.copy / "run" / "run.json", b"facts")
    for place, frame in enumerate((b"one ", b"two ", b"three ", b"four")):
        bucket.append(journal, place, frame)
    obstore.delete(bucket._store, "run/segments/0001-full-000000.journal/00000002")
    other = beside(bucket, tmp_path / "other")
    other.pull()
    found = other.copy / "run" / "segments" / journal.name
    assert found.read_bytes() == b"one two "
    other.remove(found)
    assert [meta["path"] for meta in obstore.list(bucket._store).collect()] == ["run/run.json"]


def test_what_the_bucket_does_not_hold_leaves_the_copy_but_for_what_is_this_machines(bucket: Bucket) -> None:
    run = bucket.copy / "run"
    for name in ("segments/0001-full-000000.parquet", "lock", "logs/full-0001.log", "meters/0001-full-001.meter"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"x")
    bucket.pull(run)
    assert sorted(file.name for file in run.rglob("*") if file.is_file()) == [
        "0001-full-001.meter",
        "full-0001.log",
        "lock",
    ]


def test_a_file_that_changed_in_the_bucket_is_fetched_and_one_that_did_not_is_left(
    bucket: Bucket, tmp_path: Path
) -> None:
    other = beside(bucket, tmp_path / "other")
    for name in ("run.json", "same", "changes"):
        bucket.put(bucket.copy / "run" / name, b"one")
    other.pull()
    was = (other.copy / "run" / "same").stat().st_ino
    bucket.put(bucket.copy / "run" / "changes", b"two")
    other.pull()
    assert (other.copy / "run" / "same").stat().st_ino == was
    assert (other.copy / "run" / "changes").read_bytes() == b"two"


def test_a_file_whose_bytes_a_power_failure_took_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    other = beside(bucket, tmp_path / "other")
    bucket.put(bucket.copy / "run" / "run.json", b"facts")
    other.pull()
    os.truncate(other.copy / "run" / "run.json", 0)
    other.pull()
    assert (other.copy / "run" / "run.json").read_bytes() == b"facts"


def test_a_name_that_leads_out_of_the_copy_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [[{"path": "run/../../../etc/cron.d/x", "e_tag": "1", "size": 1}]]
    monkeypatch.setattr(obstore, "list", lambda *_, **__: iter(listed))
    with pytest.raises(BucketFault, match="leads out of its folder"):
        bucket.pull()


def test_what_another_process_made_is_sent_with_its_manifest_last(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = bucket.copy / "run" / "admitted"
    stage.mkdir(parents=True)
    for name in ("admit.json", "admit-requests-00000.parquet", "admit-requests-00001.parquet"):
        (stage / name).write_bytes(b"x")
    put, order = bucket.put, []
    monkeypatch.setattr(bucket, "put", lambda path, data: (order.append(path.name), put(path, data))[1])
    bucket.send(stage)
    assert order[-1] == "admit.json"
    assert len(order) == 3
    bucket.send(stage)
    assert len(order) == 3


def test_a_writer_is_alive_until_it_says_that_it_goes(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = bucket.copy / "run", beside(bucket, tmp_path / "other")
    taken = run / "segments" / "writer-0001.json"
    bucket.put(taken, b"who", new=True)
    there = other.copy / "run"

    def lives() -> bool:
        return is_alive(other, there, 1, there / "segments" / "writer-0001.json")

    with leased(bucket, run, 1):
        assert lives()
    assert not lives()
    bucket.remove(run / "leases" / "0001")
    assert lives()  # it has just come, and has not said a word yet
    monkeypatch.setattr("serving.store.lease.LEASE_S", -1.0)
    assert not lives()  # it has been silent for longer than that


def test_a_folder_of_a_bucket_is_named_as_a_person_finds_it(tmp_path: Path) -> None:
    try:
        with pytest.raises(BucketFault, match="name it s3://BUCKET/FOLDER"):
            mount("s3://", tmp_path)
        assert is_url("s3://bucket/runs")
        assert not is_url("runs")
        assert bucket_of(tmp_path) is None
        assert name_of(tmp_path / "results.jsonl") == str(tmp_path / "results.jsonl")
    finally:
        unmount()
