"""Vetoes: pairs of prompts that lie near each other and must not share an answer, and some that may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.vetoes import VETOES, veto

# One thing differs, and only one veto looks for it.
TRAPS = [
    ("numbers", "Is 7 a prime?", "Is 9 a prime?"),
    ("numbers", "List the first 10 rows", "List the first 100 rows"),
    ("numbers", "What is 15 % of it?", "What is 15 of it?"),
    ("numbers", "name two rivers", "name three rivers"),
    ("numbers", "convert 5 kg to pounds", "convert 5 mg to pounds"),  # units
    ("numbers", "is 20 °C warm?", "is 20 °F warm?"),
    ("numbers", "it costs $5 a month", "it costs £5 a month"),
    ("numbers", "meet at 10:30 please", "meet at 10:45 please"),
    ("numbers", "convert 100 usd to eur", "convert 100 eur to usd"),
    ("quoted text", 'spell "night" aloud', 'spell "knight" aloud'),
    ("quoted text", "define `map` in python", "define `zip` in python"),
    ("quoted text", "say “yes” in thai", "say “maybe” in thai"),
    ("code or formula", "what does len(x) return", "what does len(y) return"),
    ("code or formula", "is x < y for all reals", "is x > y for all reals"),
    ("code or formula", "explain my_var in the log", "explain my_val in the log"),
    ("code or formula", "what is a + b here", "what is a * b here"),
    ("script", "translate hello", "translate привет"),
    ("script", "what does inu mean", "what does 犬 mean"),
    ("polarity", "turn on dark mode", "turn off dark mode"),
    ("polarity", "are cats allowed here", "aren't cats allowed here"),
    ("polarity", "can it run with power", "can it run without power"),
    ("polarity", "what happens before lunch", "what happens after lunch"),
    ("polarity", "why do prices rise so much", "why do prices fall so much"),
    ("polarity", "is it safe to eat", "is it unsafe to eat"),
    ("polarity", "i do not like it", "i do like it"),
    ("names", "when did Anna call", "when did Maria call"),
    ("names", "What is the capital of France?", "What is the capital of Spain?"),
    ("names", "flights from Oslo to Rome", "flights from Rome to Oslo"),
    ("argument order", "the dog bit the man", "the man bit the dog"),
    ("argument order", "does heat follow light", "does light follow heat"),
]
# What differs is a word that any veto may find first.
VETOED_ANYHOW = [
    ("the shop is expanding", "the shop is shrinking"),
    ("walk behind the house", "walk through the house"),
    ("describe a red apple", "describe a green apple"),
    ("who did brutus kill", "who killed brutus"),
]
FRESH = [
    "what is the weather today",
    "who is the current champion",
    "show the latest news",
    "what happened yesterday",
    "what time is it now",
]
PARAPHRASES = [
    ("What is the capital of France?", "What is the capital of France"),
    ("Please tell me the capital of France.", "Tell me the capital of France"),
    ("Could you summarise the plot of Hamlet?", "Can you summarise the plot of Hamlet"),
    ("What is Anna's dog called?", "What is Anna’s dog called?"),
    ("the  weather of   Rome", "the weather of Rome"),
    ("Where can I buy bread in Oslo?", "Where could I buy bread in Oslo?"),
]
# Small words that decide the answer. At cosines of MiniLM of 0.95 to 0.995 they would be served each other's answer.
HOLES = [
    ("Find me a flight to Paris", "Find me a flight from Paris"),  # 0.986
    ("List fruits that are red and sweet", "List fruits that are red or sweet"),  # 0.995
    ("Why did the bridge collapse?", "How did the bridge collapse?"),  # 0.959
    ("Translate this to French: I love you", "Translate this to French: you love me"),  # 0.978
    ("I have no allergies, suggest a meal", "I have allergies, suggest a meal"),  # 0.975
    ("Are there no survivors?", "Are there survivors?"),  # 0.960
    ("When was Einstein born?", "Where was Einstein born?"),  # 0.930, more in a longer prompt
]


@pytest.mark.parametrize(("reason", "left", "right"), TRAPS)
def test_a_trap_is_vetoed_for_what_differs(reason: str, left: str, right: str) -> None:
    assert veto(left, right) == reason


@pytest.mark.parametrize(("left", "right"), VETOED_ANYHOW)
def test_a_word_that_decides_the_answer_vetoes(left: str, right: str) -> None:
    assert veto(left, right) is not None


@pytest.mark.parametrize("text", FRESH)
def test_what_is_asked_of_the_moment_is_never_reused(text: str) -> None:
    assert veto(text, text) == "freshness"


@pytest.mark.parametrize(("left", "right"), PARAPHRASES)
def test_a_paraphrase_passes(left: str, right: str) -> None:
    assert veto(left, right) is None


@pytest.mark.parametrize(("left", "right"), HOLES)
def test_a_small_word_that_decides_the_answer_vetoes(left: str, right: str) -> None:
    assert veto(left, right) is not None


@pytest.mark.parametrize(("left", "right"), [*(trap[1:] for trap in TRAPS), *VETOED_ANYHOW, *PARAPHRASES])
def test_a_veto_holds_both_ways(left: str, right: str) -> None:
    assert (veto(left, right) is None) == (veto(right, left) is None)


@given(st.text(), st.text())
def test_any_two_texts_get_a_known_reason_or_none(left: str, right: str) -> None:
    assert veto(left, right) in {None, *VETOES}


@given(st.text())
def test_only_freshness_forbids_a_text_its_own_answer(text: str) -> None:
    assert veto(text, text) in {None, "freshness"}


@pytest.mark.parametrize("run", [" ", "\n", "a", "é", "1", "²"])
@pytest.mark.parametrize("name", VETOES)
def test_a_text_that_is_one_long_run_takes_no_longer_than_others(run: str, name: str) -> None:
    """To an embedder it is a token, so that nothing keeps it out; were a pattern quadratic, this would take minutes."""
    text = run * 200_000
    assert VETOES[name](f"is it {text} 5", f"is it {text} 6") in {True, False}
