"""A table of configurations in, the same table with predictions out; a row without one says why."""

import csv
import time
from pathlib import Path

import pytest

from flows import predict as module
from flows.predict import ADDED, predict_file
from serving.intake.files import BadInput

ROW = {
    "engine": "vLLM", "engine_version": "0.11.0", "model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "num_gpus": "1",
    "tp": "1", "pp": "1", "weight_dtype": "fp8", "isl": "1024", "osl": "256", "concurrency_or_batch": "64",
    "metric": "output_throughput_total", "unit": "output_tok/s", "notes": 'with "quotes", commas\nand a line break',
}  # fmt: skip
HEADER = [*ROW, "my own"]


def write(file: Path, rows: list[dict[str, str]], header: list[str] = HEADER) -> Path:
    with file.open("w", encoding="utf-8", newline="") as sheet:
        writer = csv.DictWriter(sheet, header, restval="kept")
        writer.writeheader()
        writer.writerows(rows)
    return file


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as sheet:
        return list(csv.DictReader(sheet))


def predicted(tmp_path: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    output = tmp_path / "out.csv"
    assert predict_file(write(tmp_path / "in.csv", rows), output) == len(rows)
    return read(output)


def test_every_row_comes_out_with_its_own_columns_and_a_prediction(tmp_path: Path) -> None:
    found = predicted(tmp_path, [ROW, ROW | {"isl": "2048"}])
    assert [list(row) for row in found] == [[*HEADER, *ADDED]] * 2
    assert [{name: row[name] for name in HEADER} for row in found] == [
        ROW | {"my own": "kept"},
        ROW | {"isl": "2048", "my own": "kept"},
    ]
    for row in found:
        assert float(row["low_90"]) < float(row["predicted"]) < float(row["high_90"])
        assert row["fits_memory"] == "true"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "Llama-9"}, "Llama-9"),
        ({"gpu": "abacus"}, "abacus"),
        ({"metric": "taste", "unit": "spoons"}, "taste"),
        ({"weight_dtype": "roman numerals"}, "roman numerals"),
        ({"isl": ""}, "length"),
        ({"tp": "DEPx"}, ""),
        ({"tp": "0"}, ""),
        ({"num_gpus": "-1"}, ""),
        ({"isl": "nan"}, ""),
        ({"osl": "0"}, ""),
        ({"isl": "1e400"}, ""),
        ({"pp": "0"}, ""),
        ({"notes": "max_num_seqs=0, max_num_batched_tokens=0"}, ""),
    ],
)
def test_a_row_that_cannot_be_answered_says_why_and_the_others_are_answered(
    tmp_path: Path, change: dict[str, str], word: str
) -> None:
    first, odd, last = predicted(tmp_path, [ROW, ROW | change, ROW])
    assert first["predicted"] == last["predicted"] != ""
    assert word in odd["reason"]
    assert odd["reason"]


def test_a_model_that_does_not_fit_is_told_as_such(tmp_path: Path) -> None:
    (found,) = predicted(tmp_path, [ROW | {"model": "Llama-3.1-405B"}])
    assert found["fits_memory"] == "false"
    assert "does not fit" in found["reason"]


def test_a_row_with_too_few_or_too_many_cells_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", [ROW])
    file.write_text(file.read_text() + "vLLM,only,these\n" + "x," * 30 + "\n")
    assert predict_file(file, tmp_path / "out.csv") == 3
    reasons = [row["reason"] for row in read(tmp_path / "out.csv")]
    assert "3 cells" in reasons[1]
    assert "31 cells" in reasons[2]


def test_many_rows_come_out_as_few_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROW | {"isl": str(100 + number)} for number in range(11)]
    at_once = predicted(tmp_path, rows)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    assert predicted(tmp_path, rows) == at_once


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", [ROW] * 5)
    for name in ("one", "other"):
        predict_file(file, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_predictions_of_before_are_written_anew(tmp_path: Path) -> None:
    (once,) = predicted(tmp_path, [ROW])
    predict_file(tmp_path / "out.csv", tmp_path / "again.csv")
    assert read(tmp_path / "again.csv") == [once]


def test_a_byte_order_mark_and_blank_lines_are_no_matter(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", [ROW])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n\r\n")
    assert predict_file(file, tmp_path / "out.csv") == 1


def test_a_table_without_rows_is_a_header(tmp_path: Path) -> None:
    assert predicted(tmp_path, []) == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no header"),
        (b"engine,gpu\n1,2\n", "lacks the columns model, metric"),
        (b"engine,model,gpu,metric,model\n", "two columns named 'model'"),
        (b"engine,model,gpu,metric\nvLLM,caf\xe9,H100,x\n", "not UTF-8"),
        ("engine,model,gpu,metric\n".encode("utf-16"), "not UTF-8"),
        (b'engine,model,gpu,metric\n"open,1,2,3\n', "csv"),
        (b"engine,model,gpu,metric\n" + b"x" * 1_100_000 + b",1,2,3\n", "csv"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_and_nothing_is_written(
    tmp_path: Path, content: bytes, word: str
) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=word):
        predict_file(file, tmp_path / "out.csv")
    assert [found.name for found in tmp_path.iterdir()] == ["in.csv"]


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", [ROW])
    with pytest.raises(BadInput, match="does not exist"):
        predict_file(tmp_path / "none.csv", tmp_path / "out.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        predict_file(tmp_path, tmp_path / "out.csv")
    with pytest.raises(BadInput, match="no folder"):
        predict_file(file, tmp_path / "none" / "out.csv")
    with pytest.raises(BadInput, match="the input as well"):
        predict_file(file, file)


def test_a_thousand_rows_take_seconds(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", [ROW | {"isl": str(100 + number)} for number in range(1000)])
    began = time.process_time()
    predict_file(file, tmp_path / "out.csv")
    assert time.process_time() - began < 10
