"""`gristmill predict` and `gristmill explain` as a user has them."""

import pytest

from tests.cli.command import Place, one_line

TABLE = "engine,model,gpu,metric,isl,osl\nvLLM,Llama-3.1-8B,H100,request_throughput,512,64\n"


def test_predict_writes_the_table_and_says_where(place: Place) -> None:
    place.write("rows.csv", TABLE)
    done = place.gristmill("predict", "rows.csv", "--output", "told.csv")
    assert (done.code, done.err, done.out) == (0, "", "told.csv: 1 rows\n")
    heading, row = (place.folder / "told.csv").read_text().splitlines()
    assert heading == TABLE.splitlines()[0] + ",predicted,low_90,high_90,fits_memory,reason"
    assert ",true," in row


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["predict", "none.csv", "--output", "told.csv"], "none.csv does not exist"),
        (["predict", "job.toml", "--output", "told.csv"], "lacks the columns"),
        (["explain", "Llama-99", "H100"], "nearest"),
        (["explain", "Llama-3.1-8B", "abacus"], "abacus"),
        (["explain", "Llama-3.1-8B", "H100", "--weights", "stone"], "known: bf16"),
        (["explain", "Llama-3.1-8B", "H100", "--picture", "roof.gif"], ".png or .svg"),
    ],
)
def test_wrong_input_is_one_line_that_names_it_and_exit_code_2(place: Place, arguments: list[str], word: str) -> None:
    done = place.gristmill(*arguments)
    assert done.code == 2
    assert word in one_line(done.err)
    assert not (place.folder / "told.csv").exists()


def test_explain_prints_the_arithmetic(place: Place) -> None:
    done = place.gristmill("explain", "Llama-3.1-8B", "H100 x2", "--weights", "fp8", "--kv-dtype", "fp8")
    assert (done.code, done.err) == (0, "")
    assert "TP" not in done.err
    assert "KV heads" in done.out


def test_explain_draws_the_roofline(place: Place) -> None:
    pytest.importorskip("matplotlib")
    done = place.gristmill("explain", "Llama-3.1-8B", "H100", "--picture", "roof.png")
    assert (done.code, done.err) == (0, "")
    assert (place.folder / "roof.png").read_bytes().startswith(b"\x89PNG")
