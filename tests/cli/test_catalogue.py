"""A user's own GPUs, models and prices: by `--catalogue` without a job, by `price.catalogue` with one."""

import json
from pathlib import Path

import pytest

from tests.cli.command import Place, one_line, rows
from tests.optimizer.catalogue.test_own import OWN

MODEL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"
TABLE = "engine,model,gpu,metric,isl,osl\nvLLM,ours-1B,abacus,request_throughput,512,64\n"
needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="`gristmill models prepare` makes it")


@pytest.fixture
def house(place: Place) -> Place:
    """A job that is billed by a machine of the user's own."""
    place.write("own.toml", OWN)
    place.prompts(rows(5))
    text = (place.folder / "job.toml").read_text().partition("[price]")[0]
    place.write("job.toml", f'{text}[price]\ncatalogue = "own.toml"\nhardware = "house/abacus x1"\n')
    return place


def test_predict_knows_what_the_file_adds(house: Place) -> None:
    house.write("rows.csv", TABLE)
    assert house.gristmill("predict", "rows.csv", "--output", "told.csv", "--catalogue", "own.toml").code == 0
    assert ',true,"offline job, unseen GPU"' in (house.folder / "told.csv").read_text()
    assert house.gristmill("predict", "rows.csv", "--output", "told.csv").code == 0
    assert "--catalogue, or a job's price.catalogue" in (house.folder / "told.csv").read_text()


def test_explain_knows_what_the_file_adds(house: Place) -> None:
    done = house.gristmill("explain", "ours-1B", "abacus", "--catalogue", "own.toml")
    assert (done.code, done.err) == (0, "")
    assert "ours-1B on House-80GB" in done.out
    assert house.gristmill("explain", "ours-1B", "abacus").code == 2


def test_a_job_is_billed_by_a_machine_of_its_own_catalogue(house: Place) -> None:
    assert house.run().code == 0
    facts = json.loads((house.only_run / "run.json").read_text())
    assert facts["price"]["usd_per_hour"] == "0.10"
    assert (facts["price"]["source"], facts["price"]["as_of"]) == ("our contract", "2026-11-26")


def test_a_catalogue_changes_no_answer_and_so_names_no_other_run(house: Place) -> None:
    assert house.run().code == 0
    done = house.run("--set", "price.usd_per_hour=3600")
    assert done.code == 0
    assert len(house.runs) == 1


def test_a_job_without_its_catalogue_knows_nothing_of_it(house: Place) -> None:
    house.job()
    done = house.run("--set", "price.hardware=house/abacus x1")
    assert done.code == 2
    assert "'house/abacus x1' has no price" in done.err
    assert house.run("--set", "price.hardware=house/abacus x1", "--catalogue", "own.toml").code == 0


@needs_model
def test_plan_rents_what_the_file_adds(house: Place) -> None:
    house.job(model=str(MODEL))
    shipped = json.loads(house.gristmill("plan", "job.toml", "--json").out)
    assert not [one for one in shipped["rented"]["plans"] if "house/" in one["plan"]]
    own = json.loads(house.gristmill("plan", "job.toml", "--json", "--catalogue", "own.toml").out)
    assert "house/abacus x1" in own["rented"]["plans"][0]["plan"]
    assert own["rented"]["plans"][0]["bounds_of"] == "offline job, unseen GPU"
    assert own["rented"]["plans"][0]["cost_usd"]["value"] < shipped["rented"]["plans"][0]["cost_usd"]["value"]


@needs_model
def test_plan_says_which_gpus_nobody_has_measured(house: Place) -> None:
    house.job(model=str(MODEL))
    told = house.gristmill("plan", "job.toml", "--catalogue", "own.toml").out
    (line,) = [line for line in told.splitlines() if "no measurement of" in line]
    assert "House-80GB" in line
    assert "H100" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "job.toml", "--quiet"],
        ["plan", "job.toml"],
        ["explain", "Llama-3.1-8B", "H100"],
        ["predict", "rows.csv", "--output", "told.csv"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_row_is_one_line_that_names_it_and_exit_code_2(house: Place, arguments: list[str]) -> None:
    house.write("rows.csv", TABLE)
    house.write("bad.toml", OWN.replace("3350", "-1"))
    done = house.gristmill(*arguments, "--catalogue", "bad.toml")
    assert done.code == 2
    complaint = one_line(done.err)
    assert complaint == "gristmill: bad.toml: [gpus.'House-80GB'] memory_gb_s = -1: must be a number above 0"
    assert not house.runs
