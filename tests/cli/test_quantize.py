"""`gristmill models quantize` and `import`, refused: exit code 2, one line that names the thing and the way out."""

from pathlib import Path

import pytest

from tests.cli.command import Place
from tests.serving.models.tiny import save_model

pytest.importorskip("compressed_tensors")


@pytest.fixture
def model(place: Place) -> Path:
    return save_model(place.folder / "tiny")


def test_an_unknown_scheme_names_the_known_ones(place: Place) -> None:
    done = place.gristmill("models", "quantize", "tiny", "--scheme", "w3a16")

    assert done.code == 2
    assert all(name in done.err for name in ("w3a16", "w8a8", "w8a16", "w4a16-gptq", "w4a16-awq", "fp8"))


@pytest.mark.usefixtures("model")
def test_a_group_that_does_not_divide_names_the_widths_and_the_sizes_that_fit(place: Place) -> None:
    place.job(model="tiny")
    python = place.write("python", "")
    arguments = ("--scheme", "w4a16-gptq", "--calibrate", "job.toml", "--group-size", "128", "--python", str(python))

    done = place.gristmill("models", "quantize", "tiny", *arguments)

    assert done.code == 2
    assert "--group-size 128: the model's layers have 64, 128 inputs; 64 and 32 fit" in done.err


@pytest.mark.usefixtures("model")
def test_the_default_target_lies_beside_the_source(place: Place) -> None:
    done = place.gristmill("models", "quantize", "tiny", "--scheme", "fp8")

    assert done.code == 0
    assert (place.folder / "tiny-fp8" / "gristmill.json").is_file()


def test_rows_are_either_looked_at_or_only_measured_on(place: Place) -> None:
    done = place.gristmill("models", "quantize", "tiny", "--calibrate", "a.toml", "--measure", "b.toml")
    assert done.code == 2
    assert "--measure: not allowed with argument --calibrate" in done.err


@pytest.mark.parametrize("rows", ["0", "-3", "some"])
def test_a_count_of_rows_is_a_whole_number(place: Place, rows: str) -> None:
    done = place.gristmill("models", "quantize", "tiny", "--rows", rows)
    assert done.code == 2
    assert "must be a whole number of at least 1" in done.err


def test_a_file_that_is_no_gguf_is_refused(place: Place) -> None:
    place.write("model.gguf", "not one")
    done = place.gristmill("models", "import", "model.gguf", "target")
    assert done.code == 2
    assert "not a sound GGUF file" in done.err
