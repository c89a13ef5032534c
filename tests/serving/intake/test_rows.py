"""Whatever the bytes and whatever the name: rows, single rows refused, or the file refused. Nothing else."""

import gzip
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.intake.admit import Admission, Form
from serving.intake.files import SUFFIXES, BadInput
from serving.intake.formats.raw import RawRow
from serving.intake.judging import columns_of
from serving.intake.render import PlainRenderer
from serving.intake.strict_json import MAX_LINE_BYTES
from serving.intake.template import Template
from serving.records import Refusal, Sampling
from tests.corpus.mutate import mutated
from tests.corpus.seeds import parquet, rows, zstd
from tests.serving.intake.reading import NoIds, opened, rows_of

FORMS = [Form(Sampling(), "scope"), Form(Sampling(), "scope", Template("Say {{prompt}}"), id_column="id")]


def judged(file: Path, form: Form) -> list[Refusal]:
    """Every row that is refused, each checked for what a refusal must have; the others are made into columns."""
    refused = []
    for row in Admission(form, PlainRenderer(), NoIds()).read(opened(file)):
        if isinstance(row, Refusal):
            assert row.code.startswith("E_")
            assert row.reason.isprintable()
            assert len(row.reason) < 400
            assert row.line >= 1
            refused.append(row)
        else:
            assert columns_of(row)
    return refused


def held_to_its_promise(file: Path) -> None:
    for form in FORMS:
        try:
            judged(file, form)
        except BadInput as whole:
            assert whole.code.startswith("E_") and file.name in str(whole)  # noqa: PT017, PT018 (either end is right)


@given(st.binary(max_size=300), st.sampled_from(SUFFIXES))
@settings(max_examples=300, deadline=None)
def test_any_bytes_of_any_kind_end_in_rows_or_refusals(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{ending}"
    packed = {".gz": gzip.compress, ".zst": zstd}.get(file.suffix, bytes)
    for written in (content, packed(content)):
        file.write_bytes(written)
        held_to_its_promise(file)


NAMES = st.sampled_from(
    ["body", "messages", "role", "content", "prompt", "id", "custom_id", "url", "method", "stop", "n", "type",
     "response_format", "json_schema", "schema", "pattern", "$ref", "properties", "temperature", "logprobs"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
@example({"id": "a", "prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": 3}}}})
@settings(max_examples=500, deadline=None)
def test_any_object_is_a_row_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    """As Parquet or another reader may give it, whatever JSON could not hold included."""
    for form in FORMS:
        row = Admission(form, PlainRenderer(), NoIds())._judge(RawRow("in.parquet", 1, value))
        assert isinstance(row, Refusal) or columns_of(row)


@pytest.mark.parametrize("number", range(200))
def test_a_mutation_of_the_corpus_ends_in_rows_or_refusals(tmp_path: Path, number: int) -> None:
    name, content = mutated(number)
    (tmp_path / name).write_bytes(content)
    held_to_its_promise(tmp_path / name)


def test_a_mutation_is_the_same_each_time() -> None:
    assert [mutated(number) for number in range(50)] == [mutated(number) for number in range(50)]


# Lines.


def codes(tmp_path: Path, content: bytes) -> list[str | None]:
    (tmp_path / "in.jsonl").write_bytes(content)
    return [row.fault and row.fault.code for row in rows_of(tmp_path / "in.jsonl")]


@pytest.mark.parametrize(("more", "code"), [(0, None), (1, "E_LINE_TOO_LONG"), (10_000_000, "E_LINE_TOO_LONG")])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_may_have_so_many_bytes_and_no_more(tmp_path: Path, more: int, code: str | None, end: bytes) -> None:
    line = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 9 + more) + b'"}'
    assert codes(tmp_path, b"{}\n" + line + end) == [None, code]
    if end:
        assert codes(tmp_path, line + end + b"{}\n") == [code, None]


@pytest.mark.parametrize("content", [b'{"a":\r1}\n', b'{"a": 1}\r{"a": 2}\n', b'{"a": 1}\r\r\n', b'\r{"a": 1}'])
def test_a_lone_carriage_return_is_named_with_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    [row] = rows_of(tmp_path / "in.jsonl")
    place = content.index(b"\r")
    assert f"a lone carriage return at byte {place} of the line" in str(row.fault)


def test_a_mark_of_byte_order_stands_once_and_first(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert codes(tmp_path, mark + b"{}\n" + mark + b"{}\n") == [None, "E_JSON"]
    assert codes(tmp_path, mark + mark + b"{}\n") == ["E_JSON"]


def test_what_begins_like_a_json_array_is_told_so_on_every_line(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'[\n  {"a": 1},\n  {"a": 2}\n]\n')
    first, second, third, last = rows_of(tmp_path / "in.jsonl")
    assert third.value == {"a": 2}
    assert all("this looks like JSON, not JSONL" in str(row.fault) for row in (first, second, last))


def test_parquet_and_jsonl_of_the_same_rows_are_the_same(tmp_path: Path) -> None:
    table = rows(10)
    (tmp_path / "in.parquet").write_bytes(parquet(table))
    assert [row.value for row in rows_of(tmp_path / "in.parquet")] == table.to_pylist()
