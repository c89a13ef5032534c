"""JSON schemas and the regular expressions in them: what a grammar compiler is never given."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.intake.bad_row import BadRow
from serving.intake.pattern import MAX_CHARACTERS, MAX_PATTERN_CHARACTERS, why_not
from serving.intake.schema import MAX_COUNT, MAX_PROPERTIES, checked_schema


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(BadRow) as refused:
        checked_schema(schema)
    assert refused.value.code == "E_SCHEMA_LIMIT"
    return str(refused.value)


def at_depth(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def laughing(levels: int, times: int) -> dict[str, Any]:
    """A billion laughs: each level refers `times` times to the next."""
    names = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * times} for n in range(levels)}
    return {"$defs": {**names, f"l{levels}": {"type": "string"}}, "$ref": "#/$defs/l0"}


CIRCLE = {"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (at_depth(40), "nested deeper than 32 schemas"),
        ({"properties": {f"p{n}": {} for n in range(MAX_PROPERTIES + 1)}}, f"at most {MAX_PROPERTIES}"),
        (CIRCLE, "refers to itself by '#/$defs/n'"),
        ({"items": {"$ref": "#"}}, "refers to itself by '#'"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        (laughing(9, 8), "stands for over"),
        (laughing(300, 1), "stands for over"),
        ({"$ref": "#/$defs/nothing"}, "has no '#/$defs/nothing'"),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}, "refers by a name"),
        ({"$dynamicRef": "#a"}, "only $ref is known"),
        ({"$ref": "http://169.254.169.254/latest"}, "refers to another document"),
        ({"properties": {"enum": {"$ref": "http://evil/"}}}, "refers to another document"),
        ({"type": "array", "minItems": MAX_COUNT + 1}, f"at most {MAX_COUNT}"),
        ({"type": "string", "pattern": "(a+)+$"}, "repeats a repeat"),
        ({"patternProperties": {"(a*)*": {}}}, "repeats a repeat"),
        ({"$schema": "http://evil/meta"}, "of the unknown kind 'http://evil/meta'"),
        ({"$schema": ["x"]}, "$schema is ['x']"),
        ({"$schema": "http://["}, "of the unknown kind"),
        ({"type": 7}, "not valid at $.type"),
    ],
)
def test_a_schema_beyond_a_limit_is_refused_with_its_reason(schema: dict[str, Any], reason: str) -> None:
    assert reason in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}, "contains": {"$ref": "#/$defs/a"}},
        {"enum": [{"$ref": "http://is/data"}], "default": {"pattern": "(a+)+"}},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"},
        {"type": "string", "pattern": "^[A-Z]{2,3}-\\d+( [a-z]+)?$", "maxLength": 40},
        {"prefixItems": [{"type": "string"}], "$defs": {"a/b": {}}, "items": {"$ref": "#/$defs/a~1b"}},
        at_depth(31),
    ],
)
def test_a_schema_that_people_write_is_kept(schema: dict[str, Any]) -> None:
    assert checked_schema(schema)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+", "repeats a repeat"),
        ("(a*b?)*", "repeats a repeat"),
        ("((a|b)+c)+", "repeats a repeat"),
        ("(a+){2,}", "repeats a repeat"),
        ("(.*a){20}", "repeats a repeat"),
        ("[(]+(x{2,})*", "repeats a repeat"),
        ("((x{100}){100}){100}", f"at most {MAX_CHARACTERS}"),
        ("a{99999}", f"at most {MAX_CHARACTERS}"),
        ("x{1000}" * 5, f"at most {MAX_CHARACTERS}"),
        ("a" * (MAX_PATTERN_CHARACTERS + 1), f"at most {MAX_PATTERN_CHARACTERS}"),
        ("(open", "is not a regular expression"),
        ("(?=a)b", "looks around or back"),
        ("(a)\\1", "looks around or back"),
    ],
)
def test_a_pattern_that_is_not_tame_is_refused(pattern: str, reason: str) -> None:
    assert reason in (why_not(pattern) or "")


@pytest.mark.parametrize(
    "pattern",
    [
        "^\\d{4}-\\d{2}-\\d{2}$",
        "(yes|no)",
        "[a+]+",
        "\\(a+\\)+",
        "[]+*]+",
        "(?:ab)+",
        "a+?b*?",
        "\\\\1",
        "(a?b)*",
        "[^]]+x{3}",
    ],
)
def test_a_pattern_that_people_write_is_kept(pattern: str) -> None:
    assert why_not(pattern) is None


@settings(deadline=None)
@given(st.text("ab()[]{}*+?|\\^$,1", max_size=40))
def test_any_pattern_is_judged_at_once(pattern: str) -> None:
    began_s = time.process_time()
    why_not(pattern)
    assert time.process_time() - began_s < 1
