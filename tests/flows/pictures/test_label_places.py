"""Labels find places that are free."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.pictures.boxes import overlap
from flows.pictures.label_places import OFFSETS, Labelled, Picture, places_of

FRAME = (0.0, 0.0, 700.0, 400.0)
points = st.tuples(st.floats(150, 550), st.floats(100, 300))


def test_a_label_that_is_alone_stands_beside_its_point() -> None:
    label = Labelled((300.0, 200.0), (100.0, 30.0))
    assert places_of([label], Picture(FRAME, [], [])) == [OFFSETS[0]]


def test_a_label_keeps_off_a_line_and_within_the_frame() -> None:
    label = Labelled((650.0, 200.0), (100.0, 30.0))
    (offset,) = places_of([label], Picture(FRAME, [], [(0.0, 180.0, 700.0, 180.0)]))
    assert offset[0] < 0 < offset[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(points, min_size=1, max_size=4))
def test_labels_never_overlap_where_there_is_room(places: list[tuple[float, float]]) -> None:
    labels = [Labelled(place, (120.0, 36.0)) for place in places]
    boxes = [label.box(offset) for label, offset in zip(labels, places_of(labels, Picture(FRAME, [], [])), strict=True)]
    assert not any(overlap(one, other) for place, one in enumerate(boxes) for other in boxes[:place])
