"""Admission: ids, keys and frames of the rows that come in, and the reasons of those that do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.intake.admit import MAX_REMEMBERED_CHARACTERS, Admission, Admitted, Form
from serving.intake.files import BadInput
from serving.intake.ids import Ids, must_be_unique
from serving.intake.render import PlainRenderer, Renderer
from serving.intake.template import Template
from serving.records import Endpoint, Message, Refusal, Sampling
from tests.serving.intake.reading import NoIds, opened

Read = Callable[..., list[Admitted | Refusal]]

ASKED = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}
# For each field of Sampling, two bodies that differ in it alone. A field that is missing here fails its test.
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 6}),
    "temperature": ({"temperature": 0.0}, {"temperature": 0.5}),
    "top_p": ({"top_p": 1}, {"top_p": 0.5}),
    "top_k": ({"top_k": 0}, {"top_k": 5}),
    "min_p": ({"min_p": 0}, {"min_p": 0.5}),
    "seed": ({}, {"seed": 0}),
    "n": ({"n": 1}, {"n": 2}),
    "stop": ({"stop": ["a", "b"]}, {"stop": ["b", "a"]}),
    "presence_penalty": ({}, {"presence_penalty": 1}),
    "frequency_penalty": ({}, {"frequency_penalty": 1}),
    "repetition_penalty": ({}, {"repetition_penalty": 1.5}),
    "logprobs": ({}, {"logprobs": True}),
    "json_schema": ({}, {"response_format": {"type": "json_object"}}),
}


class LetterRenderer:
    """A token a letter, so that lengths can be counted by hand."""

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, tuple[int, ...]]:
        text = "".join(message.content for message in messages)
        return text, tuple(ord(letter) for letter in text)


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Admit these rows, written as one JSONL file."""
    monkeypatch.chdir(tmp_path)

    def read_these(*rows: Any, renderer: Renderer | None = None, **form: Any) -> list[Admitted | Refusal]:
        Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        default = form.pop("default", Sampling())
        with Ids(tmp_path, b"key") as ids:
            admission = Admission(Form(default, form.pop("scope", "scope"), **form), renderer or PlainRenderer(), ids)
            found = list(admission.read(opened("in.jsonl")))
            must_be_unique([ids])
            return found

    return read_these


def one(rows: list[Admitted | Refusal]) -> Admitted:
    [row] = rows
    assert isinstance(row, Admitted), row
    return row


def refused(rows: list[Admitted | Refusal]) -> Refusal:
    [row] = rows
    assert isinstance(row, Refusal), row
    return row


def body(**changes: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {**ASKED, **changes}}


# Ids.


@pytest.mark.parametrize(
    ("row", "custom_id"),
    [
        (body(), "a"),
        ({"id": "b", "prompt": "hi"}, "b"),
        ({"id": 7, "prompt": "hi"}, "7"),
        ({"custom_id": "c", "id": "d", "prompt": "hi"}, "c"),
        ({"prompt": "hi"}, "row-0"),
    ],
)
def test_a_row_is_named_by_its_id_or_its_place(read: Read, row: Any, custom_id: str) -> None:
    assert one(read(row)).request.custom_id == custom_id


def test_the_id_column_is_the_one_that_the_job_names(read: Read) -> None:
    row = {"key": "k", "id": "x", "prompt": "hi"}
    assert one(read(row, id_column="key")).request.custom_id == "k"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it must be text that is not empty"),
        ("", "it must be text that is not empty"),
        ("  ", "it must be text that is not empty"),
        (True, "it must be text that is not empty"),
        (1.5, "it must be text that is not empty"),
        (["a"], "it must be text that is not empty"),
        ("x" * 65, "has 65 characters; at most 64"),
        ("a\nb", "has a control or invisible character"),
        ("a\u200bb", "has a control or invisible character"),  # zero-width space
        ("a\u202eb", "has a control or invisible character"),  # right-to-left override
    ],
)
def test_an_id_that_could_mislead_is_refused(read: Read, value: Any, reason: str) -> None:
    refusal = refused(read({**body(), "custom_id": value}))
    assert refusal.code == "E_ID"
    assert reason in refusal.reason


def test_an_id_of_64_characters_is_allowed(read: Read) -> None:
    assert one(read({**body(), "custom_id": "x" * 64})).request.custom_id == "x" * 64


def test_a_batch_row_without_its_id_is_refused(read: Read) -> None:
    assert refused(read({"body": ASKED})).code == "E_ID"


def test_a_missing_id_column_is_named(read: Read) -> None:
    assert (
        refused(read({"prompt": "hi"}, id_column="key")).reason
        == "column 'key' (dataset.id) is missing; this row has: prompt"
    )


def test_an_id_that_stands_twice_refuses_the_job_and_names_both_places(read: Read) -> None:
    with pytest.raises(BadInput, match=r"id 'a' stands twice, at in\.jsonl:1 and in\.jsonl:3"):
        read(body(), {**body(), "custom_id": "b"}, body())


def test_the_id_of_a_refused_row_is_taken_too(read: Read) -> None:
    with pytest.raises(BadInput, match="stands twice"):
        read(body(temperature=9), body())


def test_a_number_and_its_digits_are_one_id(read: Read) -> None:
    with pytest.raises(BadInput, match="id '7' stands twice"):
        read({"id": 7, "prompt": "hi"}, {"id": "7", "prompt": "ho"})


def test_an_id_must_be_unique_over_all_files(tmp_path: Path) -> None:
    with Ids(tmp_path, b"key") as ids:
        admission = Admission(Form(Sampling(), "scope"), PlainRenderer(), ids)
        for name in ("a.jsonl", "b.jsonl"):
            (tmp_path / name).write_text('{"id": "x", "prompt": "hi"}\n')
            list(admission.read(opened(tmp_path / name)))
        with pytest.raises(BadInput, match=r"a\.jsonl:1 and .*b\.jsonl:1"):
            must_be_unique([ids])


def test_rows_without_ids_in_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    admission = Admission(Form(Sampling(), "scope"), PlainRenderer(), NoIds())
    rows: list[Admitted | Refusal] = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "in.jsonl").write_text('{"prompt": "hi"}\n')
        rows += admission.read(opened(tmp_path / folder / "in.jsonl"))
    assert len(rows) == 2


def test_rows_are_numbered_over_all_files_with_refused_ones_counted(read: Read) -> None:
    good, bad, last = read({"id": "a", "prompt": "hi"}, {"id": "b"}, {"id": "c", "prompt": "hi"})
    assert isinstance(good, Admitted)
    assert isinstance(bad, Refusal)
    assert isinstance(last, Admitted)
    assert [good.request.row, bad.row, last.request.row] == [0, 1, 2]


def test_a_refusal_names_file_line_and_id(read: Read) -> None:
    refusal = refused(read(body(temperature=9)))
    assert (refusal.file, refusal.line, refusal.custom_id, refusal.code) == ("in.jsonl", 1, "a", "E_PARAM")


# Keys and frames.


def test_the_same_request_under_two_ids_has_one_key(read: Read) -> None:
    first, second = read(body(), {**body(), "custom_id": "b"})
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert (first.key, first.frame) == (second.key, second.frame)


@pytest.mark.parametrize("name", Sampling.__struct_fields__)
def test_the_key_changes_with_every_setting_that_can_change_the_answer(read: Read, name: str) -> None:
    one_way, other_way = (one(read(body(**changes))) for changes in BODIES[name])
    assert getattr(one_way.request.sampling, name) != getattr(other_way.request.sampling, name)
    assert one_way.key != other_way.key


@pytest.mark.parametrize("name", Sampling.__struct_fields__)
def test_near_duplicates_are_not_looked_for_across_settings(read: Read, name: str) -> None:
    one_way, other_way = (one(read(body(**changes))) for changes in BODIES[name])
    assert one_way.frame != other_way.frame


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi!"}],
        [{"role": "system", "content": "be brief."}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "be brief"}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi"}, {"role": "system", "content": "be brief"}],
        [{"role": "system", "content": "be brief\nhi"}],
        [*ASKED["messages"], {"role": "assistant", "content": "hi"}],
    ],
)
def test_the_key_changes_with_every_message(read: Read, messages: Any) -> None:
    assert one(read(body(messages=messages))).key != one(read(body())).key


def test_the_key_tells_the_endpoints_apart(read: Read) -> None:
    bare = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "hi"}}
    chat = body(messages=[{"role": "user", "content": "hi"}])
    assert one(read(bare)).key != one(read(chat)).key


def test_keys_of_two_scopes_never_meet(read: Read) -> None:
    assert one(read(body(), scope="tenant a")).key != one(read(body(), scope="tenant b")).key


def test_a_default_and_the_same_value_in_the_row_have_one_key(read: Read) -> None:
    plain = one(read(body(), default=Sampling(max_tokens=9)))
    assert plain.key == one(read(body(max_tokens=9), default=Sampling(max_tokens=3))).key


@pytest.mark.parametrize("name", ["model", "user", "metadata", "store"])
def test_a_field_without_effect_does_not_change_the_key(read: Read, name: str) -> None:
    assert one(read(body(**{name: "x"}))).key == one(read(body())).key


def test_the_frame_is_all_but_the_last_message(read: Read) -> None:
    other = [ASKED["messages"][0], {"role": "user", "content": "hello there"}]
    assert one(read(body(messages=other))).frame == one(read(body())).frame


def test_the_frame_changes_with_the_messages_before(read: Read) -> None:
    other = [{"role": "system", "content": "be long"}, ASKED["messages"][1]]
    assert one(read(body(messages=other))).frame != one(read(body())).frame


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "name a river"},
    {"role": "assistant", "content": "the Ebro"},
    {"role": "user", "content": "continue"},
]


@pytest.mark.parametrize("place", range(len(CHAT) - 1))
@pytest.mark.parametrize("change", ["content", "role", "left out", "twice"])
@pytest.mark.parametrize("padding", ["", "x" * MAX_REMEMBERED_CHARACTERS], ids=["short", "long"])
def test_the_frame_changes_with_every_turn_before(read: Read, place: int, change: str, padding: str) -> None:
    before = [{**turn, "content": turn["content"] + padding} for turn in CHAT[:-1]]
    turn = before[place]
    other = {"role": "user" if turn["role"] != "user" else "assistant"} if change == "role" else {}
    turns = {"left out": [], "twice": [turn, turn], "content": [{**turn, "content": turn["content"] + "."}]}
    changed = [*before[:place], *turns.get(change, [{**turn, **other}]), *before[place + 1 :]]
    one_way, other_way = (one(read(body(messages=[*turns, CHAT[-1]]))) for turns in (before, changed))
    assert one_way.text == other_way.text == "continue"
    assert one_way.frame != other_way.frame
    assert one_way.key != other_way.key


def test_the_frame_changes_with_the_schema_of_the_answer(read: Read) -> None:
    schemas = ({"type": "object", "properties": {name: {"type": "string"}}} for name in ("city", "town"))
    formats = [{"type": "json_schema", "json_schema": {"name": "a", "schema": schema}} for schema in schemas]
    one_way, other_way = (one(read(body(response_format=form))) for form in formats)
    assert one_way.frame != other_way.frame


def test_frames_tell_the_endpoints_apart(read: Read) -> None:
    bare = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "hi"}}
    chat = body(messages=[{"role": "user", "content": "hi"}])
    assert one(read(bare)).frame != one(read(chat)).frame


def test_near_duplicates_are_not_looked_for_across_scopes(read: Read) -> None:
    assert one(read(body(), scope="tenant a")).frame != one(read(body(), scope="tenant b")).frame


def test_neither_keys_nor_frames_are_shared_across_adapters(read: Read) -> None:
    rows = [one(read(body(model=name), adapters=frozenset({"poet", "clerk"}))) for name in ("poet", "clerk", "full")]
    assert len({row.key for row in rows}) == len({row.frame for row in rows}) == 3


@pytest.mark.parametrize("name", ["tools", "tool_choice", "functions", "logit_bias", "chat_template_kwargs"])
def test_what_no_frame_holds_is_refused(read: Read, name: str) -> None:
    assert refused(read(body(**{name: []}))).code == "E_FIELD_FORBIDDEN"


def test_the_frame_changes_with_the_role_of_the_last_message(read: Read) -> None:
    other = [ASKED["messages"][0], {"role": "assistant", "content": "hi"}]
    assert one(read(body(messages=other))).frame != one(read(body())).frame


def test_the_text_is_the_last_message(read: Read) -> None:
    assert one(read(body())).text == "hi"


# Length.


def test_a_prompt_that_fits_to_the_last_token_is_admitted(read: Read) -> None:
    # "hello" is 5 tokens; 5 + 3 = 8
    row = {"id": "a", "prompt": "hello", "max_tokens": 3}
    assert one(read(row, renderer=LetterRenderer(), max_model_len=8)).request.prompt_token_ids is not None


def test_a_prompt_that_is_a_token_too_long_is_refused(read: Read) -> None:
    row = {"id": "a", "prompt": "hello", "max_tokens": 4}
    refusal = refused(read(row, renderer=LetterRenderer(), max_model_len=8))
    assert refusal.code == "E_TOO_LONG"
    assert refusal.reason == "5 prompt tokens + max_tokens 4 = 9; the model holds 8, so shorten one of them"


# Rows without a body.


def test_a_template_makes_the_prompt(read: Read) -> None:
    row = one(read({"id": "a", "city": "Rome"}, prompt=Template("Weather in {{city}}?")))
    assert row.request.messages == (Message("user", "Weather in Rome?"),)


def test_a_system_template_comes_first(read: Read) -> None:
    row = one(read({"id": "a", "city": "Rome"}, prompt=Template("{{city}}?"), system=Template("Brief.", False)))
    assert row.request.messages == (Message("system", "Brief."), Message("user", "Rome?"))


@pytest.mark.parametrize(
    "column", ["max_tokens", "temperature", "stop", "messages", "prompt", "stream", "model", "temprature"]
)
def test_with_a_template_every_column_is_data(read: Read, column: str) -> None:
    row = one(read({"id": "a", column: "hot"}, prompt=Template("It is {{" + column + "}}")))
    assert (row.text, row.request.sampling) == ("It is hot", Sampling())


@pytest.mark.parametrize("column", ["url", "method", "body"])
def test_with_a_template_even_a_column_of_the_batch_form_is_data(read: Read, column: str) -> None:
    assert one(read({"id": "a", column: "hot"}, prompt=Template("It is {{" + column + "}}"))).text == "It is hot"


def test_a_row_without_its_column_is_refused(read: Read) -> None:
    refusal = refused(read({"id": "a", "town": "Rome"}, prompt=Template("{{city}}")))
    assert (refusal.code, refusal.reason) == ("E_TEMPLATE", "column 'city' is missing; this row has: id, town")


def test_a_plain_row_may_bring_its_settings(read: Read) -> None:
    row = one(read({"id": "a", "prompt": "hi", "max_tokens": 5, "temperature": 0.5, "note": "mine"}))
    assert row.request.sampling == Sampling(max_tokens=5, temperature=0.5)


def test_a_plain_row_may_bring_messages(read: Read) -> None:
    assert one(read({"id": "a", "messages": ASKED["messages"]})).key == one(read(body())).key


@pytest.mark.parametrize(
    ("name", "meant"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("prompts", "prompt"), ("message", "messages")],
)
def test_a_column_that_almost_names_a_setting_is_refused(read: Read, name: str, meant: str) -> None:
    refusal = refused(read({"id": "a", "prompt": "hi", name: 1}))
    assert (refusal.code, refusal.reason) == ("E_FIELD_FORBIDDEN", f"{name!r} is not known; did you mean {meant!r}?")


@pytest.mark.parametrize("name", ["label", "category", "source", "text", "answer"])
def test_other_columns_are_the_users_own(read: Read, name: str) -> None:
    assert one(read({"id": "a", "prompt": "hi", name: "x"})).request.sampling == Sampling()


def test_a_field_beside_a_body_is_refused(read: Read) -> None:
    refusal = refused(read({**body(), "temperature": 1}))
    assert refusal.code == "E_FIELD_FORBIDDEN"
    assert refusal.reason == "'temperature' is not known beside a body; known: body, custom_id, method, url"


def test_a_row_without_a_prompt_says_how_to_make_one(read: Read) -> None:
    refusal = refused(read({"id": "a", "text": "x"}))
    assert (refusal.code, refusal.reason) == (
        "E_PROMPT",
        "no body, messages or prompt; set dataset.prompt to a template over: id, text",
    )


@pytest.mark.parametrize(
    ("cells", "sampling"),
    [
        ("5,0.5,END", Sampling(max_tokens=5, temperature=0.5, stop=("END",))),
        (",,", Sampling()),
        ('5,1,"[""a"", ""b""]"', Sampling(max_tokens=5, temperature=1.0, stop=("a", "b"))),
    ],
)
def test_csv_cells_are_read_as_the_values_they_spell(tmp_path: Path, cells: str, sampling: Sampling) -> None:
    (tmp_path / "in.csv").write_text(f"id,prompt,max_tokens,temperature,stop\na,hi,{cells}\n")
    row = one(list(Admission(Form(Sampling(), "scope"), PlainRenderer(), NoIds()).read(opened(tmp_path / "in.csv"))))
    assert row.request.sampling == sampling


def test_a_csv_prompt_stays_text_even_if_it_spells_a_number(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,prompt\na,42\n")
    row = one(list(Admission(Form(Sampling(), "scope"), PlainRenderer(), NoIds()).read(opened(tmp_path / "in.csv"))))
    assert row.text == "42"


@pytest.mark.parametrize("stop", ["null", "1", "true"])
def test_a_json_text_is_not_read_as_json_again(read: Read, stop: str) -> None:
    assert one(read({"id": "a", "prompt": "hi", "stop": stop})).request.sampling.stop == (stop,)


@pytest.mark.parametrize("line", [b"{", b'{"id": "a", "id": "b"}', b"[1]", b'{"a": NaN}'])
def test_a_line_that_is_no_row_is_a_refusal_with_its_place(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n" + line)
    refusal = refused(
        list(Admission(Form(Sampling(), "scope"), PlainRenderer(), NoIds()).read(opened(tmp_path / "in.jsonl")))
    )
    assert (refusal.line, refusal.custom_id) == (2, None)
