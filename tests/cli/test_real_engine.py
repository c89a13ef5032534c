"""The thinnest real path: three prompts, the real model, the real engine. Whole jobs are in `make test-real`."""

from pathlib import Path

from tests.cli.command import Place, row

MODEL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"


def test_the_real_engine_answers_and_counts_its_tokens(place: Place) -> None:
    place.job(model=str(MODEL), engine='kind = "vllm"')
    capital = "What is the capital of France? One word."
    place.prompts(
        [row("a", capital, max_tokens=8), row("again", capital, max_tokens=8), row("b", "Say hi.", max_tokens=4)]
    )
    done = place.run()
    assert done.code == 0, done.err
    answers = place.answers()
    assert "Paris" in answers["a"]
    assert answers["again"] == answers["a"]
    [told] = place.ask(
        "SELECT sum(prompt_tokens) AS read, sum(completion_tokens) AS written FROM rows WHERE source = 'engine'"
    )
    assert told["read"] > 20
    assert 2 <= told["written"] <= 12
