"""Tense: of which time a text asks."""

import pytest

from optimizer.differences.tense import times


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("who is king", []),
        ("who was king", ["past"]),
        ("why wasn't he king, and why didn't he sing", ["past"]),
        ("who'll be king", ["future"]),
        ("won't he be what he was", ["future", "past"]),
    ],
)
def test_auxiliaries_tell_the_time(text: str, found: list[str]) -> None:
    assert times(text) == found
