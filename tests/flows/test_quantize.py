"""`gristmill models quantize` from a job to a measured copy, on a tiny model; and what is refused before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.models import table as models_table
from flows.quantize import Wish, make_quantized, table
from flows.rows import draw_rows
from serving.config import load_job
from serving.intake.files import BadInput
from serving.models.folder import BadModelFolder, FolderExists, ModelFolder
from serving.models.quantize.schemes import BadScheme
from serving.models.record import Fidelity
from tests.serving.models.tiny import save_model

pytest.importorskip("compressed_tensors")

JOB = """
[dataset]
path = "{path}"
[model]
full = "anything"
[sampling]
max_tokens = 6
[price]
usd_per_hour = 1
"""
Write = Callable[[list[Any]], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def job(tmp_path: Path) -> Write:
    def write(rows: list[Any]) -> Path:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "job.toml").write_text(JOB.format(path=file))
        return tmp_path / "job.toml"

    return write


def prompts(count: int) -> list[Any]:
    return [{"id": str(number), "prompt": f"prompt number {number}"} for number in range(count)]


def quiet(message: str) -> None:
    pass


def test_the_copy_is_measured_on_rows_of_the_job_and_the_list_shows_it(model: Path, job: Write, tmp_path: Path) -> None:
    said: list[str] = []
    wish = Wish(model, tmp_path / "models" / "tiny-w8a8", "w8a8", measure=job(prompts(12)), held_out=8)

    found = make_quantized(wish, said.append)

    assert found is not None
    assert (found.rows, found.tokens > 8, found.speed_note) == (8, True, "not measured")
    assert 0 < found.mean_kl_nats < 0.01
    assert found.full_bytes > found.size_bytes
    assert ModelFolder.open(wish.target).fidelity == found
    assert f"top-1 {found.top1_share:.1%}" in models_table(tmp_path / "models", quiet)
    assert "tiny-w8a8: w8a8: weights INT8 by output channel, activations INT8 by token; round to nearest" in said


def test_without_a_job_nothing_is_measured(model: Path, tmp_path: Path) -> None:
    assert make_quantized(Wish(model, tmp_path / "copy", "fp8"), quiet) is None
    assert ModelFolder.open(tmp_path / "copy").fidelity is None


def test_rows_are_drawn_from_different_prompts_and_rendered_as_the_model_reads_them(model: Path, job: Write) -> None:
    rows = [
        *prompts(6),
        *({"id": f"again-{number}", "prompt": "prompt number 3"} for number in range(5)),
        {"prompt": 7},
    ]

    drawn = draw_rows(load_job(job(rows)), ModelFolder.open(model), 4, 2, 0, quiet)

    places = sorted(prompt.row for prompt in (*drawn.calibration, *drawn.held_out))
    assert places == [0, 1, 2, 3, 4, 5]
    assert all(prompt.token_ids[0] == 1 and prompt.max_tokens == 6 for prompt in drawn.calibration)  # <|im_start|>
    assert draw_rows(load_job(job(rows)), ModelFolder.open(model), 4, 2, 0, quiet) == drawn


def test_a_job_whose_rows_are_all_refused_says_where_and_why_the_first_was(
    model: Path, job: Write, tmp_path: Path
) -> None:
    wish = Wish(model, tmp_path / "copy", "w8a8", measure=job([{"prompt": 1}, {"prompt": ""}]))
    with pytest.raises(
        BadInput, match=r"all 2 rows are refused, the first at .*/rows\.jsonl:1: prompt is 1; it must be"
    ):
        make_quantized(wish, quiet)
    assert not wish.target.exists()


def test_too_few_rows_are_refused_with_the_counts(model: Path, job: Write, tmp_path: Path) -> None:
    wish = Wish(model, tmp_path / "copy", "w8a8", measure=job(prompts(5)), held_out=6)
    with pytest.raises(BadScheme, match="5 different prompts in 5 admitted rows"):
        make_quantized(wish, quiet)
    assert not wish.target.exists()


def test_too_few_tokens_for_gptq_are_refused(model: Path, job: Write, tmp_path: Path) -> None:
    """One row of some forty tokens, a layer of 128 inputs. Any interpreter does: it is not started."""
    import sys

    wish = Wish(
        model, tmp_path / "copy", "w4a16-gptq", job(prompts(9)), rows=1, held_out=1, python=Path(sys.executable)
    )
    with pytest.raises(BadScheme, match="fewer than the 128 inputs of the widest layer; raise --rows"):
        make_quantized(wish, quiet)


def test_a_quantized_source_is_refused(model: Path, tmp_path: Path) -> None:
    make_quantized(Wish(model, tmp_path / "fp8", "fp8"), quiet)
    with pytest.raises(BadModelFolder, match="weights are fp8 already; give the unquantized model"):
        make_quantized(Wish(tmp_path / "fp8", tmp_path / "copy", "w8a8"), quiet)


def test_speed_without_rows_to_run_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadScheme, match=r"--speed runs held-out rows .* --measure JOB\.toml"):
        make_quantized(Wish(model, tmp_path / "copy", "w8a8", speed=True), quiet)


def test_an_existing_target_is_refused_before_any_row_is_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(FolderExists):
        make_quantized(Wish(model, tmp_path / "copy", "w8a8", measure=tmp_path / "no such job"), quiet)


FIDELITY = Fidelity(
    full="big", dataset="rows.jsonl", input_sha256="ab" * 32, seed=7, rows=64, tokens=2000,
    exact_share=0.5, prefix_share=0.75, top1_share=0.97, mean_kl_nats=0.01, full_perplexity=1.5, perplexity=1.6,
    full_bytes=200_000_000, size_bytes=100_000_000, full_output_tokens_per_s=100.0, output_tokens_per_s=150.0,
    speed_note="", machine="a machine", date="2026-11-25",
)  # fmt: skip


def test_the_table_has_every_figure() -> None:
    assert table(FIDELITY).splitlines() == [
        "on 64 held-out rows of rows.jsonl                  full   quantized",
        "greedy answers that are the same                          50.0%",
        "of an answer, before the first token that differs         75.0%",
        "same likeliest next token, of 2000                        97.0%",
        "KL(full || quantized), nats a token                       0.01000",
        "perplexity of the full model's answers             1.500  1.600",
        "MB on disk                                         200    100  0.50x",
        "output tokens/s through the engine                 100    150  1.50x",
        "a machine, 2026-11-25",
    ]


def test_an_engine_that_cannot_run_a_scheme_is_a_finding() -> None:
    from dataclasses import replace

    cannot = replace(
        FIDELITY, full_output_tokens_per_s=None, output_tokens_per_s=None, speed_note="cannot run here: no"
    )
    assert table(cannot).splitlines()[-2].endswith("cannot run here: no")
