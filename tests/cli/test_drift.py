"""Other settings are another run; who insists on resuming is told each difference, and nothing is spent."""

from tests.cli.command import Place, rows


def test_a_job_that_differs_is_not_resumed_and_the_difference_is_named(place: Place) -> None:
    place.prompts(rows(3))
    assert place.run().code == 0
    done = place.run("--resume", "latest", "--set", "sampling.max_tokens=7")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gristmill: E_DRIFT ")
    assert "sampling.max_tokens (256, now 7)" in done.err
    assert len(place.runs) == 1


def test_a_changed_input_is_named(place: Place) -> None:
    place.prompts(rows(3))
    assert place.run().code == 0
    place.prompts(rows(4))
    done = place.run("--resume", "latest")
    assert done.code == 2
    assert "input_sha256" in done.err


def test_the_same_job_is_resumed(place: Place) -> None:
    place.prompts(rows(3))
    assert place.run().code == 0
    assert place.run("--resume", "latest").code == 0


def test_another_price_is_no_drift_and_the_first_one_stays(place: Place) -> None:
    place.prompts(rows(3))
    assert place.run().code == 0
    done = place.gristmill("run", "job.toml", "--set", "price.usd_per_hour=1")
    assert done.code == 0
    assert "keeps the price that it was started with" in done.err
    assert len(place.runs) == 1


def test_a_new_run_says_which_unfinished_one_it_is_not(place: Place) -> None:
    place.prompts(rows(40))
    stopped = place.gristmill("run", "job.toml", "--set", "engine.echo_s=0.2", "--set", "budget.usd=2")
    assert stopped.code == 3
    done = place.gristmill("run", "job.toml", "--set", "sampling.max_tokens=7")
    assert done.code == 0
    assert "a new run; the unfinished" in done.err
    assert "sampling.max_tokens (256, now 7)" in done.err
