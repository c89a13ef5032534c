"""Boxes and straight lines on a picture: what covers what."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, bottom, right, top
Line = tuple[float, float, float, float]  # from x, y to x, y


def around(point: Sequence[float], right: float, up: float) -> Box:
    x, y = float(point[0]), float(point[1])
    return x - right, y - up, x + right, y + up


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def sticks_out(box: Box, frame: Box) -> bool:
    return box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]


def nearest_corner(box: Box, point: Sequence[float]) -> tuple[float, float]:
    x = box[0] if abs(box[0] - point[0]) < abs(box[2] - point[0]) else box[2]
    y = box[1] if abs(box[1] - point[1]) < abs(box[3] - point[1]) else box[3]
    return x, y


def passes(box: Box, line: Line) -> bool:
    """The line goes through the box, or ends in it."""
    left, bottom, right, top = box
    ends_in = left <= line[0] <= right and bottom <= line[1] <= top
    return ends_in or any(cross(line, edge) for edge in ((left, bottom, right, top), (left, top, right, bottom)))


def cross(one: Line, other: Line) -> bool:
    """They do between their ends."""

    def above(line: Line, x: float, y: float) -> bool:
        return (line[2] - line[0]) * (y - line[1]) > (line[3] - line[1]) * (x - line[0])

    return above(one, *other[:2]) != above(one, *other[2:]) and above(other, *one[:2]) != above(other, *one[2:])
