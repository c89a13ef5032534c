"""The strict parser: one reading for one line, or a refusal with its code."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.intake.strict_json import MAX_DEPTH, MAX_LINE_BYTES, NotStrictJson, parse_line

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip

REFUSED = [
    ("E_JSON", b"{'a': 1}", "not JSON at column 2"),
    ("E_JSON", b'{"a": 1,}', "not JSON at column"),
    ("E_JSON", b'{"a": 1} {"b": 2}', "not JSON at column 10: Extra data"),
    ("E_JSON", b'{"a": "\x01"}', "Invalid control character"),
    ("E_UTF8", b'{"a": "\xff"}', "not UTF-8 at byte 7 of the line"),
    ("E_DUPKEY", b'{"a": 1, "a": 1}', "key 'a' stands twice in one object; keep one"),
    ("E_DUPKEY", b'{"x": [{"a": 1, "\\u0061": 2}]}', "key 'a' stands twice"),  # \u0061 is "a"
    ("E_NUMBER", b"NaN", "NaN is not a JSON number"),
    ("E_NUMBER", b"[-Infinity]", "-Infinity is not a JSON number"),
    ("E_NUMBER", b"1e999", "1e999 is too large for a 64-bit float"),
    ("E_NUMBER", b"9223372036854775808", "integer 9223372036854775808 is beyond 64 bits"),  # 2**63
    ("E_NUMBER", b"1" * 5000, "is beyond 64 bits"),  # more digits than int() itself takes
    ("E_SURROGATE", b'"\\ud83d"', "a lone surrogate"),
    ("E_SURROGATE", b'{"\\ude00": 1}', "a lone surrogate"),
    ("E_DEPTH", b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), f"nested deeper than {MAX_DEPTH} levels"),
    ("E_DEPTH", b"[" * 200_000 + b"]" * 200_000, f"nested deeper than {MAX_DEPTH} levels"),  # too deep for the parser
    ("E_LINE_TOO_LONG", b'"' + b"a" * MAX_LINE_BYTES + b'"', f"at most {MAX_LINE_BYTES} are allowed"),
]


@pytest.mark.parametrize(("code", "line", "reason"), REFUSED, ids=[f"{n}-{case[0]}" for n, case in enumerate(REFUSED)])
def test_a_line_that_two_parsers_could_read_differently_is_refused(code: str, line: bytes, reason: str) -> None:
    with pytest.raises(NotStrictJson, match=reason) as refused:
        parse_line(line)
    assert refused.value.code == code


@settings(deadline=None)
@given(VALUES)
def test_what_is_strict_json_is_read_as_json_reads_it(value: object) -> None:
    assert parse_line(json.dumps(value).encode()) == value


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_end_in_a_value_or_a_refusal(line: bytes) -> None:
    try:
        parse_line(line)
    except NotStrictJson as refused:
        assert refused.code.startswith("E_")  # noqa: PT017  (either end is right)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b'"\\ud83d\\ude00"', "\U0001f600"),  # a whole pair is a character
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775807", -(2**63) + 1),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),  # the same key in two objects
        ('"naïve \u2028"'.encode(), "naïve \u2028"),
    ],
)
def test_the_edge_of_what_is_allowed_is_allowed(line: bytes, value: object) -> None:
    assert parse_line(line) == value


def test_nesting_up_to_the_limit_is_allowed() -> None:
    assert parse_line(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)[0]
