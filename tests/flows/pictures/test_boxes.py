"""What covers what on a picture."""

import pytest

from flows.pictures.boxes import around, cross, nearest_corner, overlap, passes, sticks_out

BOX = (0.0, 0.0, 4.0, 2.0)


def test_boxes_that_share_an_area_overlap_and_those_that_touch_do_not() -> None:
    assert overlap(BOX, (3.0, 1.0, 9.0, 9.0))
    assert not overlap(BOX, (4.0, 0.0, 5.0, 1.0))


@pytest.mark.parametrize(
    ("line", "through"),
    [
        ((-1.0, 1.0, 5.0, 1.0), True),  # across
        ((2.0, -5.0, 2.0, 5.0), True),  # upright
        ((1.0, 1.0, 9.0, 9.0), True),  # begins in it
        ((9.0, 9.0, 1.0, 1.5), True),  # ends in it
        ((-1.0, 3.0, 9.0, 3.0), False),
        ((-3.0, 0.0, 0.0, 5.0), False),
    ],
)
def test_a_line_passes_through_a_box(line: tuple[float, float, float, float], through: bool) -> None:
    assert passes(BOX, line) == through


def test_lines_cross_between_their_ends_alone() -> None:
    assert cross((0.0, 0.0, 2.0, 2.0), (0.0, 2.0, 2.0, 0.0))
    assert not cross((0.0, 0.0, 2.0, 2.0), (3.0, 2.0, 5.0, 0.0))


def test_a_box_sticks_out_of_its_frame_on_any_side() -> None:
    assert not sticks_out((1.0, 1.0, 2.0, 2.0), BOX)
    assert sticks_out((1.0, 1.0, 2.0, 2.1), BOX)


def test_the_nearest_corner_is_the_one_by_the_point() -> None:
    assert nearest_corner(BOX, (5.0, -1.0)) == (4.0, 0.0)
    assert around((1.0, 1.0), 2.0, 3.0) == (-1.0, -2.0, 3.0, 4.0)
