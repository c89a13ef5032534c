"""Sealed files: JSON that a person can read, and whose every changed bit is found."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.digest import sha256_of
from serving.store.sealed import Corrupt, read_sealed, sealed, write_sealed

FACTS = {"rows": 3, "usd": "0.000000000003", "name": "naïve", "overheads": [{"kind": "waste"}], "previous": None}
JSON = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5)


@given(facts=st.dictionaries(st.text(), JSON, min_size=1))
def test_facts_come_back_as_they_were_sealed(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, object]
) -> None:
    file = tmp_path_factory.getbasetemp() / "facts.json"
    assert write_sealed(file, facts) == sha256_of(file)
    assert read_sealed(file) == facts


def test_a_sealed_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", FACTS)
    text = (tmp_path / "a.json").read_text()
    assert text.startswith('{\n "rows": 3,\n "usd": "0.000000000003",\n "name": "naïve",\n')
    assert json.loads(text).items() >= FACTS.items()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    sound = sealed(FACTS)
    for place in range(len(sound)):
        for bit in range(8):
            file.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises(Corrupt, match=r"a\.json: "):
                read_sealed(file)


def test_a_file_that_is_cut_off_anywhere_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    sound = sealed(FACTS)
    for size in range(len(sound)):
        file.write_bytes(sound[:size])
        with pytest.raises(Corrupt, match=f"{size} bytes that do not end in a seal; it is cut off, or not ours"):
            read_sealed(file)


def test_a_changed_fact_says_what_was_found_and_what_was_sealed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_sealed(file, FACTS)
    file.write_text(file.read_text().replace('"rows": 3', '"rows": 4'))
    words = r"a\.json: the sha256 of its bytes 0 to \d+ is [0-9a-f]{64}, its seal says [0-9a-f]{64}$"
    with pytest.raises(Corrupt, match=words):
        read_sealed(file)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1}', b"\xff\xfe", b"null"])
def test_a_file_without_a_seal_is_not_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Corrupt, match="do not end in a seal"):
        read_sealed(tmp_path / "a.json")


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"a\.json: missing"):
        read_sealed(tmp_path / "a.json")


def test_a_fact_that_json_cannot_hold_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed({"usd": float("nan")})
