"""Parquet, of which nothing is believed: not its footer, not its types, not its sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from serving.intake.files import BadInput
from serving.intake.formats.raw import RawRow, Reading
from tests.corpus.seeds import bits_flipped, extension, parquet, rows
from tests.serving.intake.reading import rows_of

ROOT = Path(__file__).parents[3]


def read(tmp_path: Path, content: bytes, reading: Reading | None = None) -> list[RawRow]:
    (tmp_path / "in.parquet").write_bytes(content)
    return rows_of(tmp_path / "in.parquet", reading)


def refusal(tmp_path: Path, content: bytes, reading: Reading | None = None) -> BadInput:
    with pytest.raises(BadInput) as refused:
        read(tmp_path, content, reading)
    return refused.value


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 100, 700])
def test_a_file_that_is_cut_off_is_refused_wherever(tmp_path: Path, cut: int) -> None:
    assert refusal(tmp_path, parquet(rows(50))[:-cut]).code == "E_PARQUET"


def test_a_flipped_bit_in_a_page_that_has_a_checksum_is_found(tmp_path: Path) -> None:
    content = parquet(rows(1000), write_page_checksum=True, compression="none")
    for place in range(300, 20_000, 1_500):  # all within pages: the footer is in the last 2 KB of some 40
        assert refusal(tmp_path, bits_flipped(content, place)).code == "E_PARQUET"


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "ray.data.arrow_tensor", "anything.else"])
def test_an_extension_type_is_refused_and_never_loaded(tmp_path: Path, name: str) -> None:
    fault = refusal(tmp_path, extension(name))
    assert fault.code == "E_PARQUET_SCHEMA"
    assert name in str(fault)
    assert not (Path.cwd() / "pwned").exists()


def test_a_type_that_names_a_library_does_not_have_it_imported(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(extension("ray.data.arrow_tensor"))
    code = """if True:
        import sys
        from serving.intake.files import BadInput
        from tests.serving.intake.reading import rows_of
        try:
            rows_of(sys.argv[1])
        except BadInput as fault:
            print(fault.code, "ray" in sys.modules)
    """
    arguments = [sys.executable, "-c", code, tmp_path / "in.parquet"]
    told = subprocess.run(
        arguments, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert told.stdout == "E_PARQUET_SCHEMA False\n", told.stderr


@pytest.mark.parametrize(
    "wrap",
    [pa.list_, lambda field: pa.struct([field]), lambda field: pa.map_(pa.string(), field)],
    ids=["list", "struct", "map"],
)
def test_an_extension_type_within_another_is_found(tmp_path: Path, wrap: object) -> None:
    inner = pa.field("inner", pa.string(), metadata={"ARROW:extension:name": "arrow.py_extension_type"})
    schema = pa.schema([pa.field("a", wrap(inner))])  # type: ignore[operator]
    assert refusal(tmp_path, parquet(schema.empty_table())).code == "E_PARQUET_SCHEMA"


def test_a_type_that_arrow_itself_extends_is_refused_too(tmp_path: Path) -> None:
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16)))
    assert refusal(tmp_path, parquet(pa.table({"id": column}))).code == "E_PARQUET_SCHEMA"


def test_a_file_of_no_columns_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, parquet(pa.table({}))).code == "E_PARQUET_SCHEMA"


def test_twin_columns_and_twin_fields_are_refused(tmp_path: Path) -> None:
    twins = pa.table([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    within = pa.schema([pa.field("a", pa.struct([pa.field("x", pa.int8()), pa.field("x", pa.int8())]))])
    assert "column id stands twice" in str(refusal(tmp_path, parquet(twins)))
    assert refusal(tmp_path, parquet(within.empty_table())).code == "E_PARQUET_SCHEMA"


def test_a_text_that_stands_once_and_is_meant_two_thousand_times_is_measured_as_it_is_meant(tmp_path: Path) -> None:
    column = pa.array(["x" * 2**20]).dictionary_encode().take(pa.array([0] * 2000))
    fault = refusal(tmp_path, parquet(pa.table({"a": column})))
    assert fault.code == "E_RATIO"
    assert "raise dataset.max_ratio" in str(fault)


def test_a_dictionary_is_read_as_the_values_that_it_stands_for(tmp_path: Path) -> None:
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    assert [row.value for row in read(tmp_path, parquet(pa.table({"a": column})))] == [
        {"a": "x"},
        {"a": "y"},
        {"a": "x"},
    ]


def test_rows_of_nothing_count_as_well(tmp_path: Path) -> None:
    content = parquet(pa.table({"a": pa.nulls(2_000_000, pa.bool_())}))
    assert refusal(tmp_path, content).code == "E_RATIO"


def test_a_ratio_that_is_allowed_is_read(tmp_path: Path) -> None:
    content = parquet(pa.table({"a": ["x" * 2**20] * 20}))
    assert len(read(tmp_path, content, Reading(max_ratio=100_000))) == 20


def test_a_row_that_is_too_large_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    large, small = read(tmp_path, parquet(pa.table({"a": ["x" * 9 * 2**20, "y"]})), Reading(max_ratio=10_000))
    assert large.fault is not None
    assert (large.fault.code, small.value) == ("E_LINE_TOO_LONG", {"a": "y"})


def test_a_value_that_python_cannot_hold_refuses_its_row_alone(tmp_path: Path) -> None:
    column = pa.array([0, 2**60], pa.timestamp("ms"))  # the second is in the year 36 million
    good, bad = read(tmp_path, parquet(pa.table({"a": column})))
    assert good.fault is None
    assert bad.fault is not None
    assert bad.fault.code == "E_ROW_TYPE"


def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    column = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    assert refusal(tmp_path, parquet(pa.table({"a": column}))).code == "E_PARQUET"


def test_a_file_without_rows_gives_none(tmp_path: Path) -> None:
    assert read(tmp_path, parquet(rows(0))) == []
