"""From a path to raw rows: which files are found, and which place each row is given."""

import gc
import hashlib
import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.intake.files import BadInput, _opened, find_files, open_inputs, sha256_of_files
from serving.intake.formats.raw import Reading
from serving.intake.rows import read_rows
from tests.serving.intake.reading import opened, rows_of

ROWS = [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two"}]


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def values(file: str) -> list[object]:
    return [row.value for row in rows_of(file)]


def lines(file: str) -> list[int]:
    return [row.line for row in rows_of(file)]


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def two_rows(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    file = tmp_path / f"in.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif request.param == "csv":
        file.write_bytes(b"id,prompt\na,one\nb,two\n")
    else:
        file.write_bytes(b'{"id": "a", "prompt": "one"}\n{"id": "b", "prompt": "two"}\n')
    return str(file)


def test_every_kind_of_file_gives_the_same_rows(two_rows: str) -> None:
    assert values(two_rows) == ROWS


def test_every_row_knows_its_file(two_rows: str) -> None:
    assert {row.file for row in rows_of(two_rows)} == {two_rows}


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\r\n{"a": 2}\r\n',
        b'\xef\xbb\xbf{"a": 1}\n{"a": 2}',  # a byte order mark, and no newline at the end
        b' {"a": 1}\t\n{"a": 2} \n\n',
    ],
)
def test_jsonl_is_read_whatever_its_line_ends(tmp_path: Path, content: bytes) -> None:
    assert values(write(tmp_path / "in.jsonl", content)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("content", [b"a\n1\n2\n", b"a\r\n1\r\n2\r\n", b"\xef\xbb\xbfa\n1\n2", b"a\n1\n\n2\n"])
def test_csv_is_read_whatever_its_line_ends(tmp_path: Path, content: bytes) -> None:
    assert values(write(tmp_path / "in.csv", content)) == [{"a": "1"}, {"a": "2"}]


def test_a_blank_line_is_passed_over_and_still_counted(tmp_path: Path) -> None:
    assert lines(write(tmp_path / "in.jsonl", b'\n{"a": 1}\n  \n{"a": 2}\n')) == [2, 4]


def test_a_csv_row_stands_where_its_first_line_is(tmp_path: Path) -> None:
    # The header is line 1; the quoted cell spans lines 2 and 3.
    assert lines(write(tmp_path / "in.csv", b'a,b\n"x\ny",1\nz,2\n')) == [2, 4]


def test_parquet_rows_are_numbered_from_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(2500))}), tmp_path / "in.parquet")  # more than one batch of 1024
    assert lines(str(tmp_path / "in.parquet")) == list(range(1, 2501))


def test_a_line_separator_in_a_text_does_not_end_the_row(tmp_path: Path) -> None:
    assert values(write(tmp_path / "in.jsonl", '{"a": "x\u2028y\u0085z"}\n'.encode())) == [{"a": "x\u2028y\u0085z"}]


def test_a_bad_line_is_a_fault_and_the_next_is_read(tmp_path: Path) -> None:
    bad, good = rows_of(write(tmp_path / "in.jsonl", b'{"a": 1\n{"a": 2}\n'))
    assert bad.fault is not None
    assert (bad.value, bad.fault.code, good.value) == (None, "E_JSON", {"a": 2})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'"text"\n', "the row is not an object"),
        (b"[{}]\n", "looks like JSON, not JSONL: write one whole object a line"),
    ],
)
def test_a_row_is_an_object(tmp_path: Path, content: bytes, reason: str) -> None:
    [row] = rows_of(write(tmp_path / "in.jsonl", content))
    assert row.fault is not None
    assert row.fault.code == "E_ROW_TYPE"
    assert reason in str(row.fault)


def test_a_csv_file_is_closed_when_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_open: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", left_open.append)
    values(write(tmp_path / "in.csv", b"a\n1\n"))
    gc.collect()
    assert left_open == []


def test_a_csv_row_with_a_cell_too_many_is_a_fault(tmp_path: Path) -> None:
    bad, good = rows_of(write(tmp_path / "in.csv", b"a,b\n1,2,3\n4,5\n"))
    assert str(bad.fault).startswith("3 cells, but the first line names 2 columns")
    assert good.value == {"a": "4", "b": "5"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "E_EMPTY .*: empty; the first line must name the columns"),
        (b"a,a\n1,2\n", "E_CSV .*:1: the first line names a column twice: a; give each its own name"),
        (b'a\n"open\n', "E_CSV .*:2: not CSV"),
        (b"a\n\xff\n", "E_UTF8 .*:2: not UTF-8 at byte 0 of the line, 2 of the file"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_refused_whole(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        values(write(tmp_path / "in.csv", content))


def test_a_parquet_file_that_is_cut_off_is_refused_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in.parquet")
    whole = (tmp_path / "in.parquet").read_bytes()
    with pytest.raises(BadInput, match="not readable as Parquet"):
        values(write(tmp_path / "in.parquet", whole[: len(whole) // 2]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff\xfe"], pa.binary()).view(pa.string()),  # text that is not UTF-8
        pa.array([1], pa.timestamp("ns")),  # finer than Python's datetime
    ],
    ids=["not-utf8", "nanoseconds"],
)
def test_a_parquet_value_that_python_cannot_hold_is_a_refusal(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"a": column}), tmp_path / "in.parquet")
    try:
        [row] = rows_of(str(tmp_path / "in.parquet"))
    except BadInput:
        return
    assert row.fault is not None


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    text = "x" * 200_000
    assert values(write(tmp_path / "in.csv", f"a\n{text}\n".encode())) == [{"a": text}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_empty_file_has_no_rows_or_is_refused(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"in.{suffix}", b"")
    if suffix == "jsonl":
        assert values(file) == []
    else:
        with pytest.raises(BadInput, match="not readable as Parquet"):
            values(file)


def test_a_glob_finds_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "c.txt"):
        write(tmp_path / name, b"")
    assert find_files("[ab].*", tmp_path) == [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")]


def test_a_glob_of_two_stars_goes_down(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    write(tmp_path / "x" / "y" / "in.jsonl", b"")
    assert find_files("**/*.jsonl", tmp_path) == [str(tmp_path / "x" / "y" / "in.jsonl")]


def test_a_whole_path_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", b"")
    assert find_files(file, Path("/nowhere")) == [file]


def test_a_url_is_opened_by_fsspec(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", b'{"a": 1}\n')
    [found] = find_files(f"file://{tmp_path}/in.jsonl", Path("/nowhere"))
    assert values(found) == [{"a": 1}]


@pytest.mark.parametrize("path", ["none.jsonl", "none-*.jsonl", "nofolder/in.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadInput) as refused:
        find_files(path, tmp_path)
    where = f"dataset.path = {path!r}: no such file (looked in {tmp_path})"
    assert str(refused.value) == f"E_PATH {where}; name a file that is there"


@pytest.mark.parametrize("name", ["in.txt", "in.json", "in.gz", "in"])
def test_an_unknown_kind_of_file_lists_the_known_endings(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"")
    with pytest.raises(BadInput, match=r"unknown kind of file; known endings: \.jsonl, \.ndjson, \.csv, .*\.parquet"):
        find_files(name, tmp_path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").mkdir()
    with pytest.raises(BadInput, match=r"E_PATH .*not a regular file"):
        open_inputs("in.jsonl", tmp_path)


def test_a_pipe_is_refused_before_it_can_hang_the_job(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(BadInput, match=r"E_PATH .*not a regular file"):
        open_inputs("in.jsonl", tmp_path)


def test_an_unknown_protocol_is_bad_input() -> None:
    with pytest.raises(BadInput, match="nope://x"):
        find_files("nope://x/in.jsonl", Path())


def test_a_file_is_found_by_its_own_name_even_if_that_looks_like_a_glob(tmp_path: Path) -> None:
    file = write(tmp_path / "in[1].jsonl", b"")
    assert find_files("in[1].jsonl", tmp_path) == [file]


def test_the_digest_of_a_file_is_the_one_that_sha256sum_prints(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "a.jsonl", b"one")).sha256 == hashlib.sha256(b"one").hexdigest()


def test_a_row_that_moves_to_the_next_file_changes_the_digest(tmp_path: Path) -> None:
    def digest(**contents: bytes) -> str:
        for name, content in contents.items():
            write(tmp_path / f"{name}.jsonl", content)
        return sha256_of_files(open_inputs("*.jsonl", tmp_path))

    assert digest(a=b"1\n2\n", b=b"3\n") != digest(a=b"1\n", b=b"2\n3\n")


def test_a_file_is_found_whatever_the_case_of_its_ending(tmp_path: Path) -> None:
    assert values(write(tmp_path / "in.JSONL", b'{"a": 1}\n')) == [{"a": 1}]


# What a path may lead to.


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the folder that a job names."""
    (tmp_path / "secret").mkdir()
    return Path(write(tmp_path / "secret" / "key.jsonl", b'{"a": "secret"}\n'))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def refusal(path: str, folder: Path) -> str:
    with pytest.raises(BadInput) as refused:
        open_inputs(path, folder)
    assert refused.value.code == "E_PATH"
    return str(refused.value)


@pytest.mark.parametrize("path", ["data/in.jsonl", "data/*.jsonl", "data/**/*.jsonl"])
def test_a_link_out_of_its_folder_is_refused_and_the_file_named(secret: Path, data: Path, path: str) -> None:
    (data / "in.jsonl").symlink_to(secret)
    assert f"name the file itself: {secret}" in refusal(path, data.parent)


def test_a_folder_in_a_glob_that_is_a_link_out_is_refused(secret: Path, data: Path) -> None:
    (data / "sub").symlink_to(secret.parent)
    assert f"name the file itself: {secret}" in refusal("data/*/*.jsonl", data.parent)


def test_a_link_within_its_folder_is_followed(data: Path) -> None:
    write(data / "2026.jsonl", b'{"a": 1}\n')
    (data / "latest.jsonl").symlink_to("2026.jsonl")
    assert values(str(data / "latest.jsonl")) == [{"a": 1}]


def test_a_folder_that_is_named_may_itself_be_a_link(secret: Path, data: Path) -> None:
    (data / "sub").symlink_to(secret.parent)
    assert values(str(data / "sub" / "key.jsonl")) == [{"a": "secret"}]


def test_a_link_to_nothing_and_a_link_to_itself_are_refused(data: Path) -> None:
    (data / "gone.jsonl").symlink_to("nothing.jsonl")
    (data / "loop.jsonl").symlink_to("loop.jsonl")
    assert "cannot be opened (No such file or directory)" in refusal("gone.jsonl", data)
    assert "not a regular file" in refusal("loop.jsonl", data)


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "/proc/self/environ", "/sys/kernel/notes"])
def test_what_the_kernel_shows_as_a_file_is_refused(tmp_path: Path, target: str) -> None:
    # Through a file system that is given by its own folder, so that it is no link out of it.
    (tmp_path / "in.jsonl").symlink_to(target)
    refusal("in.jsonl", tmp_path)
    with pytest.raises(BadInput, match="E_PATH"):
        _opened(target, "/")


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may be no longer than 107 characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("in.jsonl")
        refusal("in.jsonl", tmp_path)


def test_a_folder_of_links_that_goes_round_is_left_in_the_end(data: Path) -> None:
    (data / "round").symlink_to(".")
    write(data / "in.jsonl", b"{}\n")
    assert open_inputs("**/*.jsonl", data)


@pytest.mark.parametrize("path", ["a\0b.jsonl", "x" * 5000 + ".jsonl", "", "/", ".", "\udcff.jsonl"])
def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path, path: str) -> None:
    refusal(path, tmp_path)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    assert "not a regular file" in refusal(f"file://{tmp_path}/in.jsonl", Path())


def test_a_remote_file_is_fetched_once(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://once.jsonl", "wb") as remote:
        remote.write(b'{"a": 1}\n')
    [found] = open_inputs("memory://once.jsonl", tmp_path)
    fsspec.filesystem("memory").rm("/once.jsonl")
    assert [row.value for row in read_rows(found, Reading())] == [{"a": 1}]


def test_a_file_that_changes_after_it_was_hashed_is_refused_with_both_hashes(tmp_path: Path) -> None:
    found = opened(write(tmp_path / "in.jsonl", b'{"a": 1}\n'))
    write(tmp_path / "in.jsonl", b'{"a": 2}\n')
    now = hashlib.sha256(b'{"a": 2}\n').hexdigest()
    with pytest.raises(BadInput, match=f"E_HASH .*sha256 was {found.sha256}, is {now}"):
        list(read_rows(found, Reading()))


def test_a_file_that_is_replaced_after_it_was_opened_is_read_as_it_was(tmp_path: Path) -> None:
    found = opened(write(tmp_path / "in.jsonl", b'{"a": 1}\n'))
    os.replace(write(tmp_path / "new", b'{"a": 2}\n'), tmp_path / "in.jsonl")
    assert [row.value for row in read_rows(found, Reading())] == [{"a": 1}]


def test_a_descriptor_is_closed_with_its_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        opened(write(tmp_path / "in.jsonl", b"{}\n"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
