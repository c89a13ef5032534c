"""Symbols: in what is no prose every character counts, and prose has none."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optimizer.differences.symbols import symbols

OPERATORS = st.sampled_from(list("{}[]<>=+*^|\\/@#&~_$≤≥∧∨√→😀😢"))
OPERANDS = st.text("abxy", min_size=1, max_size=3)


@given(OPERANDS, OPERATORS, OPERATORS, OPERANDS)
def test_another_operator_is_another_formula(left: str, one: str, other: str, right: str) -> None:
    for frame in (f"is {left}{{}}{right} so", f"is {left} {{}} {right} so", f"what is {left}{{}}"):
        assert (symbols(frame.format(one)) == symbols(frame.format(other))) == (one == other)


@given(OPERANDS, OPERATORS)
def test_a_formula_without_its_operator_is_another(operand: str, operator: str) -> None:
    assert symbols(f"is {operator}{operand} so") != symbols(f"is {operand} so")


@given(st.text("CNOFclno123=#()[]@+-/\\", min_size=1, max_size=20), st.data())
def test_the_case_of_every_letter_of_a_formula_counts(formula: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(formula) - 1))
    changed = formula[:place] + formula[place].swapcase() + formula[place + 1 :]
    assume(changed != formula)
    assert symbols(f"draw C={formula}=C now") != symbols(f"draw C={changed}=C now")


@pytest.mark.parametrize(
    "prose",
    [
        "What is Anna's dog called? It's a well-known, (rather) old dog... isn't it!",
        "The price is $5, or 5 %, or 20 °C - at 10:30 p.m. on 14/07/1789.",
        "A 14-year-old with COVID-19 said: “No — never again.”",
        "Élise and Øystein live in the U.S., e.g. in TX.",
        "CDs, URLs and the BBC",
        "第一章は何ですか。",
    ],
)
def test_prose_has_no_symbols(prose: str) -> None:
    assert symbols(prose) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Is pH or NaCl in H2O?", ("pH", "NaCl", "H2O")),
        ("what does ^a+$ match", ("^a+$",)),
        ("how do I sort in C#?", ("C#",)),
        ("what does os.path do", ("os.path",)),
        ("what does rm -rf do", ("-rf",)),
        ("what is a - b and i--", ("-", "i--")),
        ("what is 5! here", ("5!",)),
        ("what does f(x, y) give", ("f(x, y)", "f(x")),
    ],
)
def test_symbols_are_found_as_they_stand(text: str, found: tuple[str, ...]) -> None:
    assert symbols(text) == found


@given(st.text())
def test_any_text_has_its_symbols(text: str) -> None:
    assert all(symbols(text))
