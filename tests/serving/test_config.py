"""The job file: every key is known, every value has its type, and there is exactly one price."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from serving.config import BadJob, Job, as_override, load_job
from serving.records import Lane, Sampling

MINIMAL = """
[dataset]
path = "prompts.jsonl"
[model]
full = "models/tiny"
[price]
usd_per_hour = 0.1
"""
Load = Callable[..., Job]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the minimal job with `text` at its end and `overrides` over it."""

    def load_it(text: str = "", *overrides: str, base: str = MINIMAL) -> Job:
        (tmp_path / "job.toml").write_text(base + text)
        return load_job(tmp_path / "job.toml", list(overrides))

    return load_it


def complaint(load: Load, *arguments: str, **options: Any) -> str:
    with pytest.raises(BadJob) as refused:
        load(*arguments, **options)
    return str(refused.value)


def test_a_minimal_job_has_defaults_for_the_rest(load: Load) -> None:
    job = load()
    assert job.default_sampling == Sampling()
    assert (job.engine.kind, job.reuse.exact, job.reuse.semantic, job.tenant.name) == ("vllm", True, False, "default")


def test_the_lanes_are_the_models_that_the_job_names(load: Load) -> None:
    assert load().lanes == {"full": Lane("full", "models/tiny")}
    both = load("", "model.quantized=models/tiny-w8a8")
    assert list(both.lanes.values()) == [Lane("full", "models/tiny"), Lane("quantized", "models/tiny-w8a8")]


def test_sampling_of_the_job_is_the_default_of_its_rows(load: Load) -> None:
    job = load('[sampling]\nmax_tokens = 5\ntemperature = 0.5\nstop = ["END"]')
    assert job.default_sampling == Sampling(max_tokens=5, temperature=0.5, stop=("END",))


# Unknown and missing keys.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sampling]\nmax_token = 5", "unknown key 'sampling.max_token'; did you mean 'max_tokens'?"),
        ("[reuse]\nsemantics = true", "unknown key 'reuse.semantics'; did you mean 'semantic'?"),
        ("[samplings]\nmax_tokens = 5", "unknown key 'samplings'; did you mean 'sampling'?"),
        ("[tenant]\nzzz = 1", "unknown key 'tenant.zzz'; known here: name"),
    ],
)
def test_an_unknown_key_names_the_nearest_or_all(load: Load, text: str, message: str) -> None:
    assert complaint(load, text).endswith(f"job.toml: {message}")


def test_every_wrong_key_is_named_at_once(load: Load) -> None:
    assert len(complaint(load, "[sampling]\nmax_token = 5\ntop_p = 3").splitlines()) == 2


@pytest.mark.parametrize("key", ["dataset.path", "model.full"])
def test_a_missing_key_is_named(load: Load, key: str) -> None:
    section, _, name = key.partition(".")
    text = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(name))
    assert complaint(load, base=text + "\n").endswith(f"key {key!r} is missing")
    assert section in text


# Values.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.path", "3"),
        ("sampling.max_tokens", '"5"'),
        ("sampling.max_tokens", "1.5"),
        ("sampling.max_tokens", "0"),
        ("sampling.temperature", '"hot"'),
        ("sampling.temperature", "nan"),
        ("sampling.temperature", "3"),
        ("sampling.top_p", "0"),
        ("sampling.stop", '"END"'),
        ("sampling.stop", "[1]"),
        ("engine.kind", '"triton"'),
        ("engine.max_num_seqs", "0"),
        ("engine.timeout_s", "0"),
        ("engine.prefix_caching", '"perhaps"'),
        ("reuse.min_similarity", "1.5"),
        ("reuse.exact", "2"),
        ("route.to_quantized", '"some"'),
        ("quality.max_wrong", "0"),
        ("budget.usd", "0"),
        ("budget.usd", "inf"),
        ("budget.deadline", '"24:00"'),
        ("budget.deadline", '"6:00"'),
        ("tenant.name", '"../other"'),
        ("tenant.name", '""'),
    ],
)
def test_a_value_that_is_wrong_is_named_with_its_key(load: Load, key: str, value: str) -> None:
    assert f"job.toml: {key}" in complaint(load, "", f"{key}={value}")


def test_a_section_is_a_table(load: Load) -> None:
    assert "sampling = 3" in complaint(load, base="sampling = 3\n" + MINIMAL)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sampling.seed", "true"), ("sampling.temperature", "true"), ("engine.prefix_caching", '"yes"')],
)
def test_a_value_of_another_type_is_not_taken_for_one_of_its_own(load: Load, key: str, value: str) -> None:
    assert key in complaint(load, "", f"{key}={value}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling.max_tokens", "1000000000"),
        ("sampling.seed", str(2**70)),
        ("sampling.stop", '[""]'),
        ("sampling.stop", '["a", "b", "c", "d", "e"]'),
    ],
)
def test_the_job_may_ask_for_what_a_row_may_ask_for(load: Load, key: str, value: str) -> None:
    assert key in complaint(load, "", f"{key}={value}")


def test_money_is_read_as_it_is_written(load: Load) -> None:
    # As a float, 0.1 would be 0.1000000000000000055511151231257827...
    assert load().price.usd_per_hour == Decimal("0.1")


def test_a_password_in_the_url_is_refused_without_being_shown(load: Load) -> None:
    said = complaint(load, '[engine]\nkind = "http"\nbase_url = "http://me:hunter2@host/v1"')
    assert "api_key_env" in said
    assert "hunter2" not in said


def test_a_catalogue_is_no_price(load: Load) -> None:
    both = load("", "price.catalogue=own.toml").price
    assert (both.catalogue, both.usd_per_hour) == ("own.toml", Decimal("0.1"))
    kept = load("", "price.catalogue=own.toml", "price.hardware=house/box").price
    assert (kept.catalogue, kept.hardware, kept.usd_per_hour) == ("own.toml", "house/box", None)
    assert load("").settings_that_change_an_answer() == (
        load("", "price.catalogue=own.toml").settings_that_change_an_answer()
    )


def test_a_price_that_is_set_replaces_the_one_of_the_file(load: Load) -> None:
    assert load("", "price.hardware=aws/g6.xlarge").price.usd_per_hour is None


def test_an_http_engine_needs_its_url(load: Load) -> None:
    assert 'engine.base_url = ""; write a URL such as' in complaint(load, '[engine]\nkind = "http"')


def test_a_route_needs_its_lane(load: Load) -> None:
    message = 'route.to_quantized is "short", but model.quantized is not set'
    assert message in complaint(load, '[route]\nto_quantized = "short"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('judge = "command"', 'quality.judge = "command" needs quality.command, such as ["python3", "check.py"]'),
        ('command = ["./check"]', 'quality.judge = "exact" has no use for quality.command; write judge = "command"'),
        ('judge = "comand"', "quality.judge = 'comand'"),
        ('judge = "command"\ncomand = ["./check"]', "unknown key 'quality.comand'; did you mean 'command'?"),
        ('judge = "command"\ncommand = "./check"', "quality.command"),
        ('judge = "command"\ncommand = [""]', "quality.command.0"),
        ("min_similarity = 1.5", "quality.min_similarity"),
        ("command_timeout_s = 0", "quality.command_timeout_s"),
    ],
)
def test_a_judge_has_what_it_needs(load: Load, text: str, message: str) -> None:
    assert f"job.toml: {message}" in complaint(load, f"[quality]\n{text}")


# Price.


@pytest.mark.parametrize(
    "price",
    [
        'hardware = "aws/c7a.large"\nusd_per_hour = 0.1',
        'hardware = "aws/c7a.large"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2',
        "usd_per_hour = 0.1\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2",
        "",
    ],
)
def test_a_job_has_exactly_one_price(load: Load, price: str) -> None:
    base = MINIMAL.replace("usd_per_hour = 0.1", price)
    assert "give one price: hardware, usd_per_hour, or the two usd_per_mtok" in complaint(load, base=base)


@pytest.mark.parametrize("half", ["input_usd_per_mtok = 1", "output_usd_per_mtok = 1"])
def test_half_a_token_price_is_no_price(load: Load, half: str) -> None:
    assert "go together" in complaint(load, base=MINIMAL.replace("usd_per_hour = 0.1", half))


def test_an_unpriced_job_is_an_error_not_free(load: Load) -> None:
    assert complaint(load, base=MINIMAL.partition("[price]")[0]).endswith("key 'price' is missing")


@pytest.mark.parametrize("usd", ["0", "-1", "nan", "inf", '"free"'])
def test_an_hour_costs_something(load: Load, usd: str) -> None:
    assert "price.usd_per_hour" in complaint(load, "", f"price.usd_per_hour={usd}")


# Overrides.


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sampling.max_tokens=9", 9),
        ("sampling.max_tokens = 9", 9),
        ('sampling.stop=["a"]', ["a"]),
        ("sampling.temperature=0.5", 0.5),
    ],
)
def test_an_override_is_laid_over_the_file(load: Load, override: str, value: Any) -> None:
    job = load("[sampling]\nmax_tokens = 5", override)
    assert getattr(job.sampling, override.split("=")[0].split(".")[1].strip()) == value


@pytest.mark.parametrize("text", ["other.jsonl", '"other.jsonl"', "'other.jsonl'"])
def test_a_text_needs_no_second_pair_of_quotes(load: Load, text: str) -> None:
    assert load("", f"dataset.path={text}").dataset.path == "other.jsonl"


def test_an_override_makes_the_section_that_it_needs(load: Load) -> None:
    assert load("", "engine.kind=echo").engine.kind == "echo"


def test_the_last_override_counts(load: Load) -> None:
    assert load("", "tenant.name=a", "tenant.name=b").tenant.name == "b"


@pytest.mark.parametrize("override", ["sampling.max_tokens", "max_tokens=5", "a.b.c=5", "=5", "sampling.=5"])
def test_an_override_of_another_form_is_refused(load: Load, override: str) -> None:
    assert f"--set {override}: write section.key=value" in complaint(load, "", override)


def test_an_unknown_key_in_an_override_names_the_nearest(load: Load) -> None:
    assert "unknown key 'engine.knd'; did you mean 'kind'?" in complaint(load, "", "engine.knd=echo")


def test_an_override_cannot_reach_into_a_value(load: Load) -> None:
    assert "sampling is not a section of the job file" in complaint(
        load, "", "sampling.max_tokens=5", base="sampling = 3\n" + MINIMAL
    )


@pytest.mark.parametrize("path", ["true", "1e5", "2026-01-01", "[a]", '"quoted".jsonl', "a\\b.jsonl", "naïve\n.jsonl"])
def test_an_input_path_stays_text_whatever_it_looks_like(load: Load, path: str) -> None:
    assert load("", as_override("dataset.path", path)).dataset.path == path


# The file.


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        load_job(tmp_path / "none.toml")


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match="cannot be read"):
        load_job(tmp_path)


def test_a_job_file_that_is_not_toml_names_the_place(load: Load) -> None:
    assert "not TOML" in complaint(load, "[sampling\n")
    assert "line" in complaint(load, "[sampling\n")


def test_a_job_file_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"# \xff\n")
    with pytest.raises(BadJob, match="not UTF-8 at byte 2; save it as UTF-8"):
        load_job(tmp_path / "job.toml")


# What a run is named by.


@pytest.mark.parametrize(
    "override",
    [
        "model.full=models/other",
        "model.quantized=models/other",
        "sampling.max_tokens=9",
        "sampling.temperature=0.5",
        "reuse.exact=false",
        "reuse.earlier=false",
        "engine.kind=echo",
        "engine.dtype=float32",
        "dataset.prompt={{text}}",
        "dataset.id=key",
        "tenant.name=other",
        "engine.max_model_len=64",
        "engine.kv_dtype=fp8",
        "engine.server=vllm",
    ],
)
def test_a_setting_that_can_change_an_answer_names_another_run(load: Load, override: str) -> None:
    assert load("", override).settings_that_change_an_answer() != load().settings_that_change_an_answer()


@pytest.mark.parametrize(
    "override", ["budget.usd=5", "engine.max_num_seqs=8", "engine.server=openai", "dataset.path=other.jsonl"]
)
def test_a_setting_that_cannot_change_an_answer_resumes_the_run(load: Load, override: str) -> None:
    assert load("", override).settings_that_change_an_answer() == load().settings_that_change_an_answer()


SEMANTIC = "[reuse]\nsemantic = true\n"


@pytest.mark.parametrize(
    ("judge", "override"),
    [
        ('judge = "embedding"', "quality.min_similarity=0.8"),
        ('judge = "command"\ncommand = ["./check"]', 'quality.command=["./check", "-v"]'),
        ('judge = "command"\ncommand = ["./check"]', "quality.command_timeout_s=5"),
    ],
)
def test_a_setting_that_can_change_a_verdict_names_another_run(load: Load, judge: str, override: str) -> None:
    text = f"{SEMANTIC}[quality]\n{judge}"
    assert load(text, override).settings_that_change_an_answer() != load(text).settings_that_change_an_answer()


@pytest.mark.parametrize("override", ["quality.min_similarity=0.8", "quality.command_timeout_s=5"])
def test_a_setting_of_a_judge_that_is_not_asked_resumes_the_run(load: Load, override: str) -> None:
    settings = load(SEMANTIC, override).settings_that_change_an_answer()
    assert settings["quality"] == {"max_wrong": 0.02, "confidence": 0.95, "judge": "exact"}


def test_what_names_a_run_can_be_written_as_json(load: Load) -> None:
    assert json.dumps(load().settings_that_change_an_answer())


@pytest.mark.parametrize(
    ("changes", "here"),
    [
        ([], True),
        (["engine.replicas=2"], True),
        (["cluster.ray=auto"], False),
        (["engine.kind=echo"], False),
        (["engine.kind=http", "engine.base_url=http://127.0.0.1:1/v1"], False),
    ],
)
def test_an_engine_elsewhere_or_the_double_does_not_compute_here(load: Load, changes: list[str], here: bool) -> None:
    assert load("", *changes).computes_here is here
