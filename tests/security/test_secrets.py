"""A key, and the words of prompts and answers, stay where they belong, whatever fails."""

import base64
import subprocess
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from tests.cli.command import Done, Place, row
from tests.serving.engines.openai_stub import Asked, Fault, OpenAIStub

KEY = "sk-canary-5f0c/77+a"
OTHER = "canary-of-another-service"
PROMPT = "canaryprompt8841"


def holding(place: Place, text: str) -> list[str]:
    """The files below the working folder, whatever they are called, in which a text stands."""
    found = []
    for file in sorted(file for file in place.folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet":  # compressed: its columns are looked at, not its bytes
            content += str(pq.read_table(file).to_pydict()).encode()
        if text.encode() in content:
            found.append(str(file.relative_to(place.folder)))
    return found


def forms(secret: str) -> list[str]:
    """The ways in which a secret could be written down."""
    return [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode(), secret[:12]]


def failing(asked: Asked) -> Fault | None:
    return {"refuse me": Fault.BAD_REQUEST, "break down": Fault.SERVER_ERROR, "garble": Fault.MALFORMED}.get(
        asked.prompt.removeprefix(f"{PROMPT} ")
    )


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Done]:
    """A run with a key, against a server that quotes the key in whatever it refuses."""
    place = Place(tmp_path_factory.mktemp("secrets"))
    place.prompts([row(f"id-{text[0]}", f"{PROMPT} {text}") for text in ("fine", "refuse me", "break down", "garble")])
    with OpenAIStub(failing, error_text=f"no such key: {KEY}, given as Authorization: Bearer {KEY}") as stub:
        place.job(
            engine=f'kind = "http"\nbase_url = "{stub.base_url}"\nmax_retries = 0\napi_key_env = "STUB_KEY"\n'
            "cache_salt = true"
        )
        # Not --quiet: what a person sees by default is what may not show it.
        done = place.gristmill("run", "job.toml", STUB_KEY=KEY, AWS_SECRET_ACCESS_KEY=OTHER, PYTHONFAULTHANDLER="1")
    assert set(stub.faults) >= {Fault.BAD_REQUEST, Fault.MALFORMED}
    assert {asked.authorization for asked in stub.served} == {f"Bearer {KEY}"}
    return place, done


def test_the_rows_failed_as_they_should(failed: tuple[Place, Done]) -> None:
    place, done = failed
    assert done.code in (1, 5), done
    assert (place.folder / ".gristmill").is_dir()  # so that the tests below look into it as well
    assert place.only_run.is_dir()


@pytest.mark.parametrize("form", range(4), ids=["plain", "in a URL", "base64", "its first half"])
def test_a_key_that_the_server_quotes_is_in_no_file_and_no_message(failed: tuple[Place, Done], form: int) -> None:
    place, done = failed
    assert forms(KEY)[form] not in done.out + done.err
    assert holding(place, forms(KEY)[form]) == []


def test_no_other_secret_of_the_environment_is_written_down(failed: tuple[Place, Done]) -> None:
    place, done = failed
    assert OTHER not in done.out + done.err
    assert holding(place, OTHER) == []


def test_the_words_of_a_prompt_are_in_no_message_and_no_log(failed: tuple[Place, Done]) -> None:
    place, done = failed
    assert PROMPT not in done.out + done.err
    kept = {Path(name).parts[2] if name.startswith("runs/") else name for name in holding(place, PROMPT)}
    # The input; the rows as they were admitted; the answers, which the stub makes of the prompts.
    assert kept <= {"prompts.jsonl", "admitted", "segments", "export"}
    assert "prompts.jsonl" in kept  # the search does find what is there


def test_a_server_that_refuses_us_in_words_with_the_key_ends_in_a_line_without_it(place: Place) -> None:
    place.prompts([row("a", PROMPT)])
    with OpenAIStub(lambda asked: Fault.UNAUTHORIZED, error_text=f"Incorrect API key provided: {KEY}") as stub:
        place.job(engine=f'kind = "http"\nbase_url = "{stub.base_url}"\napi_key_env = "STUB_KEY"')
        done = place.gristmill("run", "job.toml", STUB_KEY=KEY)
    assert done.code == 2
    assert "[key]" in done.err
    assert KEY not in done.out + done.err
    assert PROMPT not in done.out + done.err
    assert holding(place, KEY) == []


def test_a_password_in_a_url_is_refused_without_being_shown(place: Place) -> None:
    place.prompts([row("a", "x")])
    done = place.run("--set", "engine.kind=http", "--set", f"engine.base_url=http://me:{OTHER}@127.0.0.1:1/v1")
    assert done.code == 2
    assert OTHER not in done.out + done.err
    assert holding(place, OTHER) == []


def test_the_salt_of_a_tenant_is_in_no_file_of_a_run(failed: tuple[Place, Done]) -> None:
    place, _ = failed
    key = (place.folder / ".gristmill" / "install.key").read_bytes()
    assert [name for name in holding(place, key.hex()) if name] == []
    assert (place.folder / ".gristmill" / "install.key").stat().st_mode & 0o777 == 0o600


def test_all_that_a_run_leaves_is_its_owners_alone(failed: tuple[Place, Done]) -> None:
    place, _ = failed
    found = subprocess.run(
        ["find", "runs", ".gristmill", "-perm", "/077"], cwd=place.folder, capture_output=True, text=True, check=True
    )
    assert found.stdout == ""


def test_its_owner_can_still_use_it(failed: tuple[Place, Done]) -> None:
    place, _ = failed
    for file in place.only_run.rglob("*"):
        assert file.stat().st_mode & 0o400, file


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.job()
    return found
