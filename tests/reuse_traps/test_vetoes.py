"""Vetoes alone, without a certificate behind them: each trap is stopped for its own reason, and no paraphrase by a rule
that looks at what both of it say alike."""

from collections import Counter

import pytest

from optimizer.vetoes import VETOES, veto
from tests.reuse_traps.traps import PARAPHRASES, REQUESTS, TEXTS, TRUNCATED, TextPair

LEAST_PAIRS, LEAST_OF_A_KIND = 240, 16
# Another wording has other words. Whether they may be other ones is for `content words` to say, and for audits.
WORDING = {"content words"}


@pytest.mark.parametrize("pair", TEXTS, ids=lambda pair: f"{pair.kind}: {pair.left}")
def test_a_trap_is_stopped_for_its_own_reason(pair: TextPair) -> None:
    assert pair.veto is not None
    assert VETOES[pair.veto](pair.left, pair.right)
    assert VETOES[pair.veto](pair.right, pair.left)
    assert veto(pair.left, pair.right) is not None


@pytest.mark.parametrize("pair", PARAPHRASES, ids=lambda pair: pair.left)
def test_a_paraphrase_differs_in_its_wording_alone(pair: TextPair) -> None:
    assert {name for name, holds in VETOES.items() if holds(pair.left, pair.right)} <= WORDING


def test_there_are_traps_enough_of_every_kind() -> None:
    kinds = Counter(pair.kind for pair in [*TEXTS, *TRUNCATED, *REQUESTS])
    assert kinds.total() >= LEAST_PAIRS
    assert min(kinds.values()) >= LEAST_OF_A_KIND


def test_no_trap_stands_twice() -> None:
    texts = Counter(text for pair in [*TEXTS, *TRUNCATED] for text in (pair.left, pair.right))
    assert [text for text, times in texts.items() if times > 1] == []
