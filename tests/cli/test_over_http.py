"""A job over HTTP, whole: rows that fail alone, servers that are gone, keys that stay secret."""

from decimal import Decimal
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, Done, Place, digests, one_line, row, rows
from tests.serving.engines import dialect_replies
from tests.serving.engines.openai_stub import Asked, Fault, OpenAIStub, answer_to

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "datasets" / "sample" / "prompts.jsonl"
KEY = "sk-a-secret-of-tests"


def over(place: Place, stub: OpenAIStub, more: str = "") -> None:
    place.job(engine=f'kind = "http"\nbase_url = "{stub.base_url}"\nmax_retries = 2\n{more}')


@pytest.fixture(scope="module")
def one_failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Done]:
    """Five rows, a key, and a server that refuses one of them."""
    place = Place(tmp_path_factory.mktemp("http"))
    place.prompts(rows(5))
    with OpenAIStub(lambda asked: Fault.BAD_REQUEST if asked.prompt == "prompt number 3" else None) as stub:
        over(place, stub, 'api_key_env = "STUB_KEY"')
        done = place.gristmill("run", "job.toml", STUB_KEY=KEY)
    assert stub.faults == [Fault.BAD_REQUEST]
    assert {asked.authorization for asked in stub.served} == {f"Bearer {KEY}"}
    return place, done


def test_a_failed_row_is_exit_code_1(one_failed: tuple[Place, Done]) -> None:
    place, done = one_failed
    assert done.code == 1
    assert "5 = 4 answered + 0 refused + 1 failed + 0 expired" in done.out
    assert sorted(place.answers()) == ["id-0", "id-1", "id-2", "id-4"]


def test_a_failed_row_stands_in_errors_with_its_place_and_the_servers_words(one_failed: tuple[Place, Done]) -> None:
    (line,) = one_failed[0].errors
    assert line["custom_id"] == "id-3"
    assert line["error"] == {
        "code": "E_HTTP_400",
        "file": "prompts.jsonl",
        "line": 4,
        "message": "the stub will not answer that",
    }


def test_the_key_is_in_no_file_and_in_no_message(one_failed: tuple[Place, Done]) -> None:
    place, done = one_failed
    assert KEY not in done.out + done.err
    holding = [name for name in digests(place.folder) if KEY.encode() in (place.folder / name).read_bytes()]
    assert holding == []


def test_a_missing_key_is_refused_and_asks_the_server_nothing(place: Place) -> None:
    place.prompts(rows(2))
    with OpenAIStub() as stub:
        over(place, stub, 'api_key_env = "NO_SUCH_KEY"')
        done = place.run()
    assert (done.code, stub.served) == (2, [])
    assert "NO_SUCH_KEY" in one_line(done.err)


def test_a_missing_key_costs_nothing(place: Place) -> None:
    place.prompts(rows(2))
    place.job(engine='kind = "http"\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "NO_SUCH_KEY"')
    assert place.run().code == 2
    assert place.segments == []  # not even a line of waste: no engine ran


def test_a_server_that_refuses_us_is_exit_code_2_and_no_row_is_failed(place: Place) -> None:
    place.prompts(rows(3))
    with OpenAIStub(lambda asked: Fault.UNAUTHORIZED) as stub:
        over(place, stub)
        done = place.run()
    assert Fault.UNAUTHORIZED in stub.faults
    assert done.code == 2
    assert "401" in one_line(done.err)
    assert place.durable_rows == 0


def test_a_server_that_is_gone_is_exit_code_5_and_its_return_resumes_the_run(place: Place) -> None:
    place.prompts(rows(3))
    with OpenAIStub(lambda asked: Fault.RESET) as stub:
        over(place, stub)
        gone = place.run("--set", "engine.max_retries=0")
        assert gone.code == 5
        assert stub.base_url in one_line(gone.err)
        assert Fault.RESET in stub.faults
        stub.faulty = lambda asked: None  # it is back, at the same address
        assert place.run().code == 0
    assert len(place.answers()) == 3


def test_a_base_url_without_a_scheme_is_refused_like_any_wrong_setting(place: Place) -> None:
    place.prompts(rows(1))
    place.job(engine='kind = "http"\nbase_url = "localhost:8000/v1"\nmax_retries = 0')
    done = place.run()
    assert done.code == 2
    assert "localhost:8000/v1" in one_line(done.err)


def test_a_reply_that_no_table_can_hold_fails_its_row_alone(place: Place) -> None:
    place.prompts(rows(4))
    with OpenAIStub(lambda asked: Fault.HALF_A_CHARACTER if asked.prompt == "prompt number 2" else None) as stub:
        over(place, stub)
        done = place.run()
    assert Fault.HALF_A_CHARACTER in stub.faults
    assert (done.code, done.err) == (1, "")
    assert sorted(place.answers()) == ["id-0", "id-1", "id-3"]


def test_tokens_are_billed_by_the_price_list(place: Place) -> None:
    place.prompts([row("a", "one two three"), row("b", "one two three"), row("c", "four")])
    with OpenAIStub() as stub:
        over(place, stub)
        job = (place.folder / "job.toml").read_text(encoding="utf-8")
        by_tokens = "input_usd_per_mtok = 2\noutput_usd_per_mtok = 10"
        place.write("job.toml", job.replace("usd_per_hour = 3600", by_tokens))
        assert place.run().code == 0
    # a: 3 prompt and 5 answer tokens ("answer to one two three"): (3 x 2 + 5 x 10) / 1e6 = 0.000056; b repeats it.
    # c: 1 and 3 ("answer to four"): (1 x 2 + 3 x 10) / 1e6 = 0.000032.
    charges = [Decimal(line["response"]["body"]["gristmill"]["usd"]) for line in place.results]
    assert charges == [Decimal("0.000056"), Decimal(0), Decimal("0.000032")]


def test_a_bill_by_tokens_adds_up_to_what_the_server_counted(place: Place) -> None:
    """The failed row has no tokens; the server says of each answer that one prompt token was cached, which costs the
    same as any other."""
    place.prompts(rows(6))
    with OpenAIStub(lambda asked: Fault.BAD_REQUEST if asked.prompt == "prompt number 3" else None) as stub:
        over(place, stub)
        by_tokens = ("--set", "price.input_usd_per_mtok=2", "--set", "price.output_usd_per_mtok=10")
        assert place.run(*by_tokens).code == 1
    # Five rows of 3 prompt and 5 answer tokens, (3 x 2 + 5 x 10) / 1e6 = 0.000056 each.
    (bill,) = place.ask("SELECT rows_usd::VARCHAR rows, overhead_usd::VARCHAR overhead, usd::VARCHAR total FROM bills")
    assert [Decimal(bill[name]) for name in ("rows", "overhead", "total")] == [
        Decimal("0.00028"),
        0,
        Decimal("0.00028"),
    ]
    (lane,) = place.ask("SELECT prompt_tokens, cached_tokens, completion_tokens FROM lanes")
    assert lane == {"prompt_tokens": 15, "cached_tokens": 5, "completion_tokens": 25}
    assert place.gristmill("verify").code == 0


def test_a_cap_just_above_the_true_cost_is_enough_though_more_is_in_flight_at_worst(place: Place) -> None:
    # True: 3 prompt and 5 answer tokens, 0.000056 a row. At worst, by bytes and max_tokens: over 0.00014 a row.
    place.prompts(rows(100))
    with OpenAIStub() as stub:
        over(place, stub)
        by_tokens = ("--set", "price.input_usd_per_mtok=2", "--set", "price.output_usd_per_mtok=10")
        done = place.run(*by_tokens, "--set", "sampling.max_tokens=8", "--set", f"budget.usd={0.0056 * 1.05}")
    assert done.code == 0
    assert sorted(place.answers()) == sorted(f"id-{number}" for number in range(100))


def test_a_cap_just_below_the_true_cost_is_not_passed(place: Place) -> None:
    place.prompts(rows(100))
    with OpenAIStub() as stub:
        over(place, stub)
        by_tokens = ("--set", "price.input_usd_per_mtok=2", "--set", "price.output_usd_per_mtok=10")
        done = place.run(*by_tokens, "--set", "sampling.max_tokens=8", "--set", f"budget.usd={0.0056 * 0.95}")
    assert done.code == 3
    (bill,) = place.ask("SELECT usd::DOUBLE AS usd, answered FROM bills")
    assert 0.0056 * 0.90 < bill["usd"] <= 0.0056 * 0.95


def test_a_bill_by_the_hour_adds_up_to_the_time_that_the_server_was_held(place: Place) -> None:
    """A machine hour is paid whoever computes in it: all the time from start to end, shared over rows by tokens."""
    place.prompts([row("short", "one"), row("long", "two " * 40)])
    with OpenAIStub(takes_s=lambda asked: 0.6) as stub:
        over(place, stub)  # a dollar a second
        done = place.run()
    assert done.code == 0
    (bill,) = place.ask("SELECT rows_usd::DOUBLE rows, usd::DOUBLE total FROM bills")
    (time,) = place.ask("SELECT sum(seconds) overhead_s, (SELECT sum(engine_s) FROM rows) rows_s FROM overheads")
    assert 0.6 <= bill["rows"] <= bill["total"] <= done.wall_s
    assert bill["rows"] == pytest.approx(time["rows_s"], abs=1e-5)
    assert bill["total"] == pytest.approx(time["rows_s"] + time["overhead_s"], abs=1e-5)
    usd = {line["custom_id"]: line["usd"] for line in place.ask("SELECT custom_id, usd::DOUBLE usd FROM rows")}
    # Both finish in one span. "one": 1 - 1 cached + 3 answer tokens; "two ...": 40 - 1 + 42. Equal rates: 3 to 81.
    assert usd["long"] / usd["short"] == pytest.approx(81 / 3, rel=1e-3)
    assert place.gristmill("verify").code == 0


def test_a_server_by_name_fails_the_rows_that_it_would_answer_otherwise_than_asked(place: Place) -> None:
    place.prompts([row("plain", "one"), row("cut", "two", top_k=5), row("last", "three")])
    with OpenAIStub(shape=dialect_replies.tgi) as stub:
        over(place, stub, 'server = "tgi"')
        done = place.run()
    assert done.code == 1
    assert stub.attempts == {"one": 1, "three": 1}
    (line,) = place.errors
    assert (line["custom_id"], line["error"]["code"]) == ("cut", "E_PARAM")
    assert "tgi would ignore top_k = 5" in line["error"]["message"]


def test_a_salt_that_a_server_would_ignore_is_refused_before_anything_is_asked(place: Place) -> None:
    place.prompts(rows(1))
    with OpenAIStub() as stub:
        over(place, stub, 'server = "llama.cpp"\ncache_salt = true')
        done = place.run()
    assert (done.code, stub.served) == (2, [])
    assert "engine.cache_salt" in one_line(done.err)


@pytest.mark.skipif(not SAMPLE.exists(), reason="`make setup` builds the sample dataset")
def test_the_sample_job_over_a_server_with_500s_has_the_shape_of_an_echo_run(tmp_path: Path) -> None:
    """398 rows: 393 good, 5 bad. Every 20th reply is a 500, and each takes 20 ms."""

    def faulty(asked: Asked) -> Fault | None:
        return Fault.SERVER_ERROR if asked.number % 20 == 0 else None

    shapes = {}
    with OpenAIStub(faulty, takes_s=lambda asked: 0.02) as stub:
        for kind in ("http", "echo"):
            runs = Place(tmp_path / kind)
            engine = [f"engine.kind={kind}", f"engine.base_url={stub.base_url}", "reuse.semantic=false"]
            settings = [part for setting in engine for part in ("--set", setting)]
            runs.folder.mkdir()
            done = Place(ROOT).gristmill("--runs", str(runs.folder / "runs"), "run", "datasets/sample.toml", *settings)
            assert done.code == 0, (COMMAND, done)
            shapes[kind] = shape(runs)
    assert stub.faults.count(Fault.SERVER_ERROR) >= 10
    assert shapes["http"] == shapes["echo"]
    assert (len(shapes["http"]["results"]), len(shapes["http"]["errors"])) == (393, 5)


def shape(place: Place) -> dict[str, list[tuple[object, ...]]]:
    """What is the same whichever engine answers: ids, sources, choices; and errors with their places."""
    results = [
        (line["custom_id"], line["response"]["body"]["gristmill"]["source"], len(line["response"]["body"]["choices"]),
         sorted(line["response"]["body"]["choices"][0]))
        for line in place.results
    ]  # fmt: skip
    errors = [
        (line["custom_id"], line["error"]["code"], line["error"]["file"], line["error"]["line"])
        for line in place.errors
    ]
    assert all(file == "datasets/sample/prompts.jsonl" and line for _, _, file, line in errors)
    return {"results": results, "errors": errors}


def test_answers_over_http_are_the_servers(one_failed: tuple[Place, Done]) -> None:
    assert one_failed[0].answers()["id-0"] == answer_to("prompt number 0")
