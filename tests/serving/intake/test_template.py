"""Templates: only {{column}}, and a value never becomes part of the template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.intake.template import BadTemplate, Template


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Classify: {{text}}", "Classify: rain"),
        ("{{ text }} and {{text}}", "rain and rain"),
        ("{{text}} in {{city name}}", "rain in Rome"),
        ("braces { } {text} and {{text}}", "braces { } {text} and rain"),
        ("\n{{text}}\n", "\nrain\n"),
    ],
)
def test_each_column_is_put_in_its_place(text: str, filled: str) -> None:
    assert Template(text).fill({"text": "rain", "city name": "Rome"}) == filled


@pytest.mark.parametrize("value", ["{{secret}}", "{% for x in y %}", "{{ 7*7 }}", "\\g<0>", "\\1", "{# #}"])
def test_a_value_is_never_read_as_a_template(value: str) -> None:
    assert Template("say {{text}}").fill({"text": value, "secret": "s3"}) == f"say {value}"


@given(st.text(), st.text())
def test_filling_is_putting_texts_side_by_side(left: str, right: str) -> None:
    assert Template("{{a}}|{{b}}").fill({"a": left, "b": right}) == f"{left}|{right}"


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (2.5, "2.5"), (0, "0"), ("", "")])
def test_a_plain_value_is_written_as_text(value: object, shown: str) -> None:
    assert Template("{{a}}").fill({"a": value}) == shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for row in rows %}{{row}}{% endfor %}", "only {{column}} is known, not statements or comments"),
        ("{{a}}{# comment #}", "only {{column}} is known, not statements or comments"),
        ("no column", "names no column; write one as {{column}}"),
        ("{{}}", "has an empty {{}}; name a column in it"),
        ("{{  }} {{a}}", "has an empty {{}}; name a column in it"),
    ],
)
def test_what_is_not_a_column_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadTemplate) as refused:
        Template(text)
    assert reason in str(refused.value)


def test_a_system_template_needs_no_column() -> None:
    assert Template("Be brief.", needs_column=False).fill({}) == "Be brief."


def test_an_expression_is_the_name_of_a_column_that_is_not_there() -> None:
    with pytest.raises(BadTemplate, match=r"column 'a\.b' is missing; this row has: a"):
        Template("{{a.b}}").fill({"a": "x"})


def test_a_missing_column_names_those_that_the_row_has() -> None:
    with pytest.raises(BadTemplate, match="column 'txt' is missing; this row has: id, text"):
        Template("{{txt}}").fill({"text": "x", "id": "1"})


@pytest.mark.parametrize(("value", "kind"), [(None, "empty"), (["x"], "nested"), ({"x": 1}, "nested")])
def test_a_value_that_is_not_plain_is_refused(value: object, kind: str) -> None:
    with pytest.raises(BadTemplate, match=f"column 'a' is {kind}; it must be plain"):
        Template("{{a}}").fill({"a": value})


@pytest.mark.parametrize("text", ["{{a}} in {{lang}", "{{a}} in {{lang"])
def test_a_place_that_is_not_closed_is_refused(text: str) -> None:
    with pytest.raises(BadTemplate):
        Template(text)
