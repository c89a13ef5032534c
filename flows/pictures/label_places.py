"""Where the labels of a picture's points stand, so that they cover no line, no point and no other words.

Labels are placed one after another, each where it is least bad; in every order, of which the best counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from flows.pictures.boxes import Box, Line, around, cross, nearest_corner, overlap, passes, sticks_out

Offset = tuple[float, float]  # to the right and up

OFFSETS: tuple[Offset, ...] = tuple(
    (right * far, up * high)
    for high in (14, 30, 52, 80, 112, 148)
    for far in (16, 44)
    for right, up in ((1, -1), (1, 1), (-1, -1), (-1, 1))
)
FARTHER = 0.003  # what a point of distance weighs, against what would be covered
MARK = (8.0, 13.0)  # half a point's width and height, its bar included


@dataclass(frozen=True, slots=True)
class Labelled:
    """A point with its label's width and height, in the picture's units."""

    point: tuple[float, float]
    size: tuple[float, float]

    def box(self, offset: Offset) -> Box:
        """The label's corner that is nearest the point is at the offset from it."""
        (x, y), (width, height), (right, up) = self.point, self.size, offset
        left = x + right - (width if right < 0 else 0.0)
        bottom = y + up - (height if up < 0 else 0.0)
        return left, bottom, left + width, bottom + height

    def leader(self, box: Box) -> Line:
        return *self.point, *nearest_corner(box, self.point)


@dataclass(frozen=True, slots=True)
class Picture:
    frame: Box
    words: Sequence[Box]  # that stand already
    lines: Sequence[Line]


def places_of(labels: Sequence[Labelled], picture: Picture) -> list[Offset]:
    marks = [around(label.point, *MARK) for label in labels]
    # What a place covers of the picture itself is the same in every order.
    alone = [[_over_picture(label, offset, picture, marks) for offset in OFFSETS] for label in labels]
    best, least = list[Offset](), math.inf
    for order in permutations(range(len(labels))):
        offsets, bad = _placed(labels, order, alone)
        if bad < least:
            best, least = offsets, bad
    return best


def _placed(labels: Sequence[Labelled], order: Sequence[int], alone: list[list[float]]) -> tuple[list[Offset], float]:
    chosen: dict[int, Offset] = {}
    boxes, leaders, total = list[Box](), list[Line](), 0.0
    for one in order:
        label, least, best = labels[one], math.inf, OFFSETS[0]
        for offset, bad in sorted(zip(OFFSETS, alone[one], strict=True), key=lambda place: place[1]):
            if bad >= least:
                break
            box = label.box(offset)
            wrong = bad + _over_labels(box, label.leader(box), boxes, leaders)
            if wrong < least:
                best, least = offset, wrong
        chosen[one] = best
        boxes.append(label.box(best))
        leaders.append(label.leader(boxes[-1]))
        total += least
    return [chosen[one] for one in range(len(labels))], total


def _over_picture(label: Labelled, offset: Offset, picture: Picture, marks: Sequence[Box]) -> float:
    box = label.box(offset)
    leader = label.leader(box)
    own = around(label.point, *MARK)
    upright = [line for line in picture.lines if line[0] == line[2]]
    others = [line for line in picture.lines if line[0] != line[2]]
    return (
        1000.0 * sticks_out(box, picture.frame)
        + 5.0 * sum(overlap(box, taken) for taken in [*picture.words, *marks])
        + 3.0 * sum(passes(box, line) for line in others)
        + 0.2 * sum(passes(box, line) for line in upright)
        + 1.0 * sum(passes(taken, leader) for taken in [*picture.words, *(mark for mark in marks if mark != own)])
        + 0.5 * sum(cross(leader, line) for line in others)
        + FARTHER * math.hypot(*offset)
    )


def _over_labels(box: Box, leader: Line, boxes: Sequence[Box], leaders: Sequence[Line]) -> float:
    return (
        5.0 * sum(overlap(box, other) for other in boxes)
        + 3.0 * sum(passes(box, line) for line in leaders)
        + 3.0 * sum(passes(other, leader) for other in boxes)
        + 1.0 * sum(cross(leader, line) for line in leaders)
    )
