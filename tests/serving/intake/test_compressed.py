"""Packed files: whole, broken and bombs; and what a file is by its bytes against what its name says."""

import bz2
import gzip
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.intake.files import BadInput
from serving.intake.formats.raw import DECODED_AT_ANY_RATIO_BYTES, Reading
from tests.corpus.seeds import data, tarred, zipped, zstd
from tests.serving.intake.reading import opened, rows_of

LINES = b'{"a": 1}\n{"a": 2}\n'
gzipped = partial(gzip.compress, mtime=0)  # the same bytes whenever the tests are collected
PACK = {".gz": gzipped, ".zst": zstd}


@pytest.fixture(params=PACK)
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(path: Path, content: bytes) -> Path:
    data(content)(path)
    return path


def values(path: Path, reading: Reading | None = None) -> list[object]:
    return [row.value for row in rows_of(path, reading)]


def refusal(path: Path, reading: Reading | None = None) -> BadInput:
    with pytest.raises(BadInput) as refused:
        values(path, reading)
    return refused.value


def test_a_packed_file_gives_the_rows_that_are_in_it(tmp_path: Path, ending: str) -> None:
    assert values(put(tmp_path / f"in.jsonl{ending}", PACK[ending](LINES))) == [{"a": 1}, {"a": 2}]


def test_a_packed_csv_is_read_as_csv(tmp_path: Path, ending: str) -> None:
    assert values(put(tmp_path / f"in.csv{ending}", PACK[ending](b"a\n1\n"))) == [{"a": "1"}]


def test_several_packed_one_after_the_other_are_one_file(tmp_path: Path, ending: str) -> None:
    packed = PACK[ending](LINES[:5]) + PACK[ending](b"") + PACK[ending](LINES[5:])
    assert values(put(tmp_path / f"in.jsonl{ending}", packed)) == [{"a": 1}, {"a": 2}]


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(1, 7))
def test_what_is_packed_in_any_pieces_comes_out_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, pieces: int
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    whole = b'{"a": "' + text.hex().encode() + b'"}\n'
    packed = b"".join(gzipped(whole[at : at + pieces]) for at in range(0, len(whole), pieces))
    assert values(put(folder / "in.jsonl.gz", packed)) == [{"a": text.hex()}]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_packed_file_that_is_cut_off_is_refused_wherever(tmp_path: Path, ending: str, cut: int) -> None:
    fault = refusal(put(tmp_path / f"in.jsonl{ending}", PACK[ending](LINES)[:-cut]))
    assert fault.code in {"E_GZIP", "E_ZSTD"}
    assert "get the file again" in str(fault)


def test_a_broken_end_is_found_before_a_row_is_given(tmp_path: Path, ending: str) -> None:
    packed = PACK[ending](b'{"a": 1}\n' * 100_000)
    with pytest.raises(BadInput):
        next(iter(rows_of(put(tmp_path / f"in.jsonl{ending}", packed[:-3]))))


@pytest.mark.parametrize("junk", [b"j", b"\0", b"junk that is no member"])
def test_junk_behind_is_refused(tmp_path: Path, ending: str, junk: bytes) -> None:
    refusal(put(tmp_path / f"in.jsonl{ending}", PACK[ending](LINES) + junk))


def test_a_bit_flipped_in_gzip_is_found(tmp_path: Path) -> None:
    packed = gzipped(LINES)
    for place in range(10, len(packed)):  # what follows the ten bytes of its header
        broken = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
        assert refusal(put(tmp_path / "in.jsonl.gz", broken)).code == "E_GZIP"


def test_a_bomb_is_refused_and_the_key_that_lets_it_through_is_named(tmp_path: Path, ending: str) -> None:
    bomb = PACK[ending](b'{"a": 1}\n' * (DECODED_AT_ANY_RATIO_BYTES // 9 + 10))
    fault = refusal(put(tmp_path / f"in.jsonl{ending}", bomb))
    assert fault.code == "E_RATIO"
    assert "raise dataset.max_ratio" in str(fault)


def test_a_ratio_that_is_allowed_is_read(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 2**20 + b'"}\n'
    packed = put(tmp_path / "in.jsonl.gz", gzipped(line * 17))  # 17 MiB to some 17 KB, a thousand to one
    assert refusal(packed).code == "E_RATIO"
    assert len(values(packed, Reading(max_ratio=2000))) == 17


def test_little_is_no_bomb_at_any_ratio(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 2**20 + b'"}\n'
    assert len(values(put(tmp_path / "in.jsonl.gz", gzipped(line * 10)), Reading(max_ratio=1))) == 10


@pytest.mark.parametrize(
    ("name", "content", "code", "way_out"),
    [
        ("in.jsonl", gzipped(LINES), "E_GZIP", "name it .*in.jsonl.gz"),
        ("in.csv", zstd(LINES), "E_ZSTD", "name it .*in.csv.zst"),
        ("in.jsonl.gz", LINES, "E_GZIP", "take .gz off its name"),
        ("in.jsonl.zst", gzipped(LINES), "E_ZSTD", "take .zst off its name"),
        ("in.jsonl.gz", gzipped(gzipped(LINES)), "E_GZIP", "unpack it once"),
        ("in.jsonl.gz", gzipped(zstd(LINES)), "E_ZSTD", "unpack it once"),
        ("in.jsonl", zipped("x"), "E_ARCHIVE", "unpack it"),
        ("in.parquet", zipped("x"), "E_ARCHIVE", "unpack it"),
        ("in.csv", tarred(), "E_ARCHIVE", "unpack it"),
        ("in.jsonl.gz", gzipped(tarred()), "E_ARCHIVE", "unpack it"),
        ("in.jsonl", bz2.compress(LINES), "E_ARCHIVE", "pack it as .gz"),
        ("in.jsonl", b"PAR1\x15\x04", "E_PARQUET", "name it .parquet"),
        ("in.parquet", gzipped(LINES), "E_GZIP", "name it"),
        ("in.jsonl", '{"a": 1}\n'.encode("utf-16"), "E_UTF8", "save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told_its_name(
    tmp_path: Path, name: str, content: bytes, code: str, way_out: str
) -> None:
    with pytest.raises(BadInput, match=rf"{code} .*{way_out}"):
        values(put(tmp_path / name, content))


def test_an_empty_packed_file_is_empty(tmp_path: Path, ending: str) -> None:
    assert refusal(put(tmp_path / f"in.jsonl{ending}", b"")).code == "E_EMPTY"
    assert values(put(tmp_path / f"in.jsonl{ending}", PACK[ending](b""))) == []


def test_many_tiny_members_take_no_quadratic_time(tmp_path: Path) -> None:
    packed = put(tmp_path / "in.jsonl.gz", gzipped(b"") * 50_000 + gzipped(LINES))
    assert opened(packed).size_bytes > 900_000
    assert values(packed) == [{"a": 1}, {"a": 2}]
