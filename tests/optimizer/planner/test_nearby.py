"""What constants leave is carried over to plans that are alike, and to no others."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optimizer.catalogue.catalogue import model
from optimizer.planner import nearby
from optimizer.planner.nearby import NOISE, SPREAD, Nearby, Points, covariance, kin_of, points_of

LLAMA, QWEN = model("Llama-3.1-8B").shape, model("Qwen2.5-72B").shape
GROUPS = ("engine:vllm", "version:vllm-v1", "architecture:Hopper", "gpu:H100-SXM-80GB", "weights:vllm bf16")
OTHER = ("engine:trtllm", "version:trtllm", "architecture:Ampere", "gpu:A10G", "weights:trtllm int8")


def at(*batches: float, groups: tuple[str, ...] = GROUPS, shape: Any = LLAMA, tokens: float = 512.0) -> Points:
    count = len(batches)
    lengths = np.full(count, tokens)
    return points_of(
        [kin_of(groups, shape)] * count, [shape] * count, [1.0] * count, np.array(batches), lengths, lengths
    )


def told(batch: float, known: Nearby, **other: Any) -> float:
    return float(known.slower(at(batch, **other))[0])


def test_a_plan_that_was_measured_is_told_most_of_what_was_found() -> None:
    known = Nearby.learned(at(64.0), np.array([0.1]))
    noise = NOISE**2 * (1 + (0.1 / nearby.FAR) ** 2)
    assert told(64.0, known) == pytest.approx(0.1 * SPREAD**2 / (SPREAD**2 + noise))


def test_the_less_a_plan_is_like_it_the_less_it_is_told() -> None:
    known = Nearby.learned(at(64.0), np.array([0.1]))
    same, batch, shape, gpu = (
        told(64.0, known),
        told(128.0, known),
        told(64.0, known, shape=QWEN),
        told(64.0, known, groups=(*GROUPS[:3], "gpu:H200-SXM-141GB", GROUPS[4])),
    )
    assert same > batch > 0
    assert same > shape > 0
    assert same > gpu > 0
    assert abs(told(64.0, known, groups=OTHER, shape=QWEN)) < 0.05 * same


def test_far_from_all_that_was_measured_constants_stand_alone() -> None:
    known = Nearby.learned(at(1.0, 2.0, 4.0), np.array([0.3, 0.2, 0.1]))
    assert told(1e6, known, tokens=1e6) == pytest.approx(0.0, abs=1e-9)


def test_two_measurements_of_a_plan_count_as_kriging_counts_them() -> None:
    points, found = at(64.0, 64.0, 16.0), np.array([0.1, 0.06, -0.05])
    noise = NOISE**2 * (1 + (found / nearby.FAR) ** 2)
    asked = at(32.0)
    whole = covariance(asked, points) @ np.linalg.solve(covariance(points, points) + np.diag(noise), found)
    known = Nearby.learned(points, found)
    assert len(known.points) == 2
    assert known.slower(asked) == pytest.approx(whole)


def test_a_row_that_is_far_off_pulls_less_than_its_distance() -> None:
    """Ten times as far off is hardly further pulled: something else is wrong with such a row."""
    near, far = (told(64.0, Nearby.learned(at(64.0), np.array([found]))) for found in (0.25, 2.5))
    assert 0 < far < 1.5 * near


@settings(max_examples=50)
@given(
    batches=arrays(np.float64, 12, elements=st.floats(1, 4096)),
    found=arrays(np.float64, 12, elements=st.floats(-1, 1)),
)
def test_nothing_is_pulled_further_than_the_most_that_was_found(batches: Any, found: Any) -> None:
    points = at(*batches)
    spectrum = np.linalg.eigvalsh(covariance(points, points))
    assert spectrum.min() > -1e-12
    known = Nearby.learned(points, found)
    assert np.abs(known.slower(points)).max() <= 1.5 * np.abs(found).max() + 1e-12


def test_what_is_written_is_what_is_read() -> None:
    points = Points(
        tuple(kin_of(groups, LLAMA) for groups in (GROUPS, OTHER)), np.array([1, 0, 1]), np.arange(15.0).reshape(3, 5)
    )
    written = json.loads(Nearby(points, np.array([0.5, -1.5, 2.0])).text("of a test"))
    assert written["source"] == "of a test"
    assert [tuple(kin) for kin, _ in written["known"]] == list(points.kin)
    assert written["known"][0][1] == [[5.0, 6.0, 7.0, 8.0, 9.0, -1.5]]
    assert [row[-1] for row in written["known"][1][1]] == [0.5, 2.0]


def test_what_is_shipped_has_a_source_and_changes_no_plan_beyond_reason() -> None:
    known = nearby.shipped()
    text = (nearby.files("optimizer.planner") / "nearby.json").read_text(encoding="utf-8")
    assert json.loads(text)["source"].startswith("Written by `python bench/planner.py --fit`")
    assert {group.partition(":")[0] for kin in known.points.kin for group in kin} == set(nearby.ALIKE)
    told_of_all = known.slower(known.points)
    assert np.abs(told_of_all).max() < 0.3
    assert 0.01 < np.abs(told_of_all).mean() < 0.08
