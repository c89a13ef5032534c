"""A job that is wrong ends with exit code 2 and one line that names the thing and the way out; nothing is spent."""

import gzip
import json
import signal

import pytest

from serving.config import BadJob, load_job
from tests.cli.command import Done, Place, one_line, row, rows, wait_until


def refused(place: Place, done: Done) -> str:
    """The one line that a refusal is; checks that no engine ran."""
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert place.segments == []
    return one_line(done.err)


def test_a_missing_job_file(place: Place) -> None:
    (place.folder / "job.toml").unlink()
    said = refused(place, place.run())
    assert said == "gristmill: job.toml: cannot be read (No such file or directory); name an existing job file"


def test_a_job_file_that_is_not_toml(place: Place) -> None:
    place.write("job.toml", "[dataset\n")
    assert "job.toml: not TOML" in refused(place, place.run())


def test_an_unknown_key_names_the_nearest_known_one(place: Place) -> None:
    place.prompts(rows(1))
    said = refused(place, place.run("--set", "engine.concurency=3"))
    assert said == "gristmill: job.toml: unknown key 'engine.concurency'; did you mean 'concurrency'?"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("sampling.max_token=3", "did you mean 'max_tokens'?"), ("budgt.usd=3", "did you mean 'budget'?")],
)
def test_an_unknown_key_of_any_section_names_the_nearest(place: Place, override: str, nearest: str) -> None:
    with pytest.raises(BadJob) as refusal:
        load_job(place.folder / "job.toml", [override])
    assert one_line(str(refusal.value)).endswith(nearest)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("engine.kind=http", "engine.base_url"),
        ("dataset.prompt=no column", "dataset.prompt"),
        ("reuse.semantic=true", "reuse.embedder"),
        ("price.usd_per_hour=1e400", "price.usd_per_hour"),
    ],
)
def test_a_setting_that_cannot_be_is_named(place: Place, override: str, named: str) -> None:
    place.prompts(rows(1))
    assert named in refused(place, place.run("--set", override))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("engine.kind=cobol", "engine.kind"),
        ("engine.concurrency=0", "engine.concurrency"),
        ("engine.echo_s=nan", "engine.echo_s"),
        ("sampling.temperature=9", "sampling.temperature"),
        ("sampling.max_tokens=0", "sampling.max_tokens"),
        ("sampling.max_tokens=1.5", "sampling.max_tokens"),
        ("budget.usd=-1", "budget.usd"),
        ("budget.usd=inf", "budget.usd"),
        ("budget.deadline=25:00", "budget.deadline"),
        ("price.usd_per_hour=nan", "price.usd_per_hour"),
        ("price.usd_per_hour=0", "price.usd_per_hour"),
        ("tenant.name=../other", "tenant.name"),
        ("route.to_quantized=all", "model.quantized"),
        ("quality.judge=command", "quality.command"),
        ('quality.command=["./check"]', "quality.judge"),
        ("nonsense", "--set nonsense"),
        ("a.b.c=1", "--set a.b.c"),
    ],
)
def test_a_value_out_of_range_is_named(place: Place, override: str, named: str) -> None:
    with pytest.raises(BadJob) as refusal:
        load_job(place.folder / "job.toml", [override])
    assert named in one_line(str(refusal.value))


def test_a_missing_input(place: Place) -> None:
    assert "dataset.path = 'prompts.jsonl': no such file" in refused(place, place.run())
    assert place.runs == []


@pytest.mark.parametrize("name", ["prompts.docx", "folder.jsonl"])
def test_an_input_of_an_unknown_kind(place: Place, name: str) -> None:
    if name == "folder.jsonl":
        (place.folder / name).mkdir()
    else:
        place.write(name, "x")
    assert name in refused(place, place.run("--input", name))
    assert place.runs == []


def test_an_unknown_machine_names_the_nearest_listed_one(place: Place) -> None:
    place.prompts(rows(1))
    job = (place.folder / "job.toml").read_text(encoding="utf-8")
    place.write("job.toml", job.replace("usd_per_hour = 3600", 'hardware = "aws/c7a.larg"'))
    assert "'aws/c7a.larg' has no price; did you mean 'aws/c7a.large'?" in refused(place, place.run())
    assert place.runs == []


def test_a_job_without_a_price(place: Place) -> None:
    place.prompts(rows(1))
    job = (place.folder / "job.toml").read_text(encoding="utf-8")
    place.write("job.toml", job.replace("usd_per_hour = 3600", ""))
    assert "price" in refused(place, place.run())


def test_an_id_that_stands_twice_names_both_places(place: Place) -> None:
    place.job(dataset='path = "part-*.jsonl"')
    place.prompts([row("a", "x"), row("twin", "y")], "part-1.jsonl")
    place.prompts([row("b", "x"), row("c", "y"), row("twin", "z")], "part-2.jsonl")
    said = refused(place, place.run())
    assert "'twin' stands twice, at part-1.jsonl:2 and part-2.jsonl:3" in said


def test_an_input_that_is_refused_leaves_no_run_behind(place: Place) -> None:
    place.prompts([row("twin", "x"), row("twin", "y")])
    refused(place, place.run())
    assert place.runs == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.jsonl", ""),
        ("blank.jsonl", "\n \n"),
        ("empty.csv", ""),
        ("header.csv", "a,b\n"),
        ("torn.parquet", "PAR1"),
    ],
)
def test_an_input_without_a_row(place: Place, name: str, text: str) -> None:
    place.write(name, text)
    place.job(dataset=f'path = "{name}"\nprompt = "{{{{a}}}}"')
    assert name in refused(place, place.run())


def test_a_long_csv_cell_is_read_like_a_long_line(place: Place) -> None:
    """Python's csv stops at 131,072 characters unless told otherwise; a line of JSON may have 8 MiB."""
    place.job(dataset='path = "long.csv"\nprompt = "{{text}}"\nid = "id"')
    place.write("long.csv", f"id,text\na,{'long ' * 40_000}\n")
    done = place.run()
    assert (done.code, done.err) == (0, "")


def test_an_unknown_run(place: Place) -> None:
    done = place.gristmill("status", "no-such-run")
    assert done.code == 2
    assert "run" in one_line(done.err)


def test_a_runs_folder_that_is_a_file(place: Place) -> None:
    place.prompts(rows(1))
    place.write("runs", "not a folder")
    done = place.run()
    assert done.code == 2
    assert "runs" in one_line(done.err)


def test_on_request_the_first_bad_row_refuses_the_job(place: Place) -> None:
    place.prompts([row("a", "x"), row("b", "y", n=99), row("c", "")])
    said = refused(place, place.run("--set", "dataset.on_bad_row=stop"))
    assert said.startswith("gristmill: E_PARAM prompts.jsonl:2: body.n is 99; it must be an integer from 1 to 8")
    assert place.runs == []


def test_a_delimiter_is_said_not_guessed(place: Place) -> None:
    place.write("p.csv", "id;prompt\na;hello\n")
    said = refused(place, place.run("--input", "p.csv"))
    assert "E_CSV p.csv:1: the first line names one column, 'id;prompt'" in said
    done = place.run("--input", "p.csv", "--set", "dataset.delimiter=;")
    assert (done.code, place.answers()) == (0, {"a": "hello"})


@pytest.mark.parametrize("value", ['""', '";;"', '"\\n"', "'\"'"])
def test_a_delimiter_that_cannot_be_one_is_named(place: Place, value: str) -> None:
    with pytest.raises(BadJob) as refusal:
        load_job(place.folder / "job.toml", [f"dataset.delimiter={value}"])
    assert "dataset.delimiter" in one_line(str(refusal.value))


def test_a_bomb_names_the_key_that_lets_it_through(place: Place) -> None:
    text = json.dumps({"id": "a", "prompt": "hi", "mine": "x" * 2**20}) + "\n"
    lines = "".join(text.replace('"a"', f'"{number}"') for number in range(17))
    (place.folder / "prompts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    said = refused(place, place.run("--input", "prompts.jsonl.gz"))
    assert "E_RATIO" in said
    assert "raise dataset.max_ratio" in said
    done = place.run("--input", "prompts.jsonl.gz", "--set", "dataset.max_ratio=2000")
    assert (done.code, len(place.answers())) == (0, 17)


def test_an_interrupted_admission_leaves_no_run_and_no_traceback(place: Place) -> None:
    place.prompts(rows(300_000))
    process = place.start("--quiet")
    wait_until(lambda: list((place.folder / "runs").glob("*/admitted")) != [], process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert one_line(err) == "interrupted; run the same command again to resume"
    assert place.runs == []
