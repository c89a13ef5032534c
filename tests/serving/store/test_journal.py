"""Journals: what was appended comes back; a torn end is passed over, and anything else is said."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.store.journal import HEADER_BYTES, Frame, Journal, framed, read_journal
from serving.store.sealed import Corrupt

FRAMES = [Frame({"lane": "naïve\0"}, b"rows\0"), Frame({}), Frame({"usd": "0.5"}, b"GMJ2")]
IN_64_BITS = st.integers(-(2**63), 2**63 - 1)  # as the columns of a segment
SMALL = st.dictionaries(st.text(max_size=3), st.none() | IN_64_BITS | st.text(max_size=9), max_size=3)


def written(folder: Path, frames: list[Frame]) -> Path:
    journal = Journal(folder / "a.journal")
    for frame in frames:
        journal.append(frame)
    journal.close()
    return journal.path


def ends(frames: list[Frame]) -> list[int]:
    """Where each frame ends."""
    sizes = [len(framed(place, frame)) for place, frame in enumerate(frames)]
    return [sum(sizes[: place + 1]) for place in range(len(sizes))]


@given(frames=st.lists(st.builds(Frame, SMALL, st.binary(max_size=40)), min_size=1, max_size=5))
def test_frames_come_back_as_they_were_appended(tmp_path_factory: pytest.TempPathFactory, frames: list[Frame]) -> None:
    file = tmp_path_factory.getbasetemp() / "a.journal"
    file.unlink(missing_ok=True)
    read = read_journal(written(file.parent, frames))
    assert (read.frames, read.torn_bytes) == (frames, 0)


def test_every_frame_can_be_read_once_it_is_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    for count, frame in enumerate(FRAMES, 1):
        journal.append(frame)
        assert read_journal(journal.path).frames == FRAMES[:count]


def test_a_journal_without_a_frame_makes_no_file(tmp_path: Path) -> None:
    written(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


# What a crash leaves.


def test_a_frame_that_is_torn_at_any_byte_leaves_those_before(tmp_path: Path) -> None:
    file = written(tmp_path, FRAMES)
    sound, start = file.read_bytes(), ends(FRAMES)[-2]
    for size in range(start, len(sound)):
        file.write_bytes(sound[:size])
        read = read_journal(file)
        assert (read.frames, read.torn_bytes) == (FRAMES[:-1], size - start)


def test_a_frame_that_ends_in_zeros_leaves_those_before(tmp_path: Path) -> None:
    # A file system may have grown the file before it wrote into it.
    file = written(tmp_path, FRAMES)
    sound, start = file.read_bytes(), ends(FRAMES)[-2]
    for size in range(start, len(sound)):
        file.write_bytes(sound[:size].ljust(len(sound), b"\0"))
        read = read_journal(file)
        assert (read.frames, read.torn_bytes) == (FRAMES[:-1], len(sound) - start)


@pytest.mark.parametrize("zeros", [1, HEADER_BYTES - 1, HEADER_BYTES, 4096])
def test_zeros_after_the_last_frame_are_no_frame(tmp_path: Path, zeros: int) -> None:
    file = written(tmp_path, FRAMES)
    file.write_bytes(file.read_bytes() + bytes(zeros))
    read = read_journal(file)
    assert (read.frames, read.torn_bytes) == (FRAMES, zeros)


def test_a_journal_that_was_made_and_not_written_has_no_frame(tmp_path: Path) -> None:
    (tmp_path / "a.journal").touch()
    assert read_journal(tmp_path / "a.journal").frames == []


# What no crash leaves.


def test_every_flipped_bit_is_corruption_and_its_frame_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, FRAMES)
    sound = file.read_bytes()
    for place in range(len(sound)):
        start = max(start for start in (0, *ends(FRAMES)) if start <= place)
        for bit in range(8):
            file.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises(Corrupt, match=rf"a\.journal: .*frame \d at byte {start} has crc32"):
                read_journal(file)


@pytest.mark.parametrize("flipped", range(2))
def test_zeros_at_the_end_do_not_excuse_a_flipped_bit_before_a_whole_frame(tmp_path: Path, flipped: int) -> None:
    file = written(tmp_path, FRAMES)
    content = bytearray(file.read_bytes() + bytes(64))
    content[(0, *ends(FRAMES))[flipped] + 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Corrupt, match=f"frame {flipped} at byte"):
        read_journal(file)


def test_a_frame_that_is_gone_from_the_middle_is_corruption(tmp_path: Path) -> None:
    first, second, third = (framed(place, frame) for place, frame in enumerate(FRAMES))
    (tmp_path / "a.journal").write_bytes(first + third)
    with pytest.raises(Corrupt, match=f"the header of frame 1 at byte {len(first)}"):
        read_journal(tmp_path / "a.journal")
    (tmp_path / "a.journal").write_bytes(first + second + second)
    with pytest.raises(Corrupt, match="the header of frame 2"):
        read_journal(tmp_path / "a.journal")
