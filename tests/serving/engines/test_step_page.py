"""What the engine's process writes is what ours reads, whole or not at all."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines import vllm_worker
from serving.engines.step_page import EVIDENCE, STEP, StepPage

parts = st.lists(st.integers(0, 10_000), min_size=vllm_worker.PARTS - 1, max_size=vllm_worker.PARTS - 1)
steps = st.lists(st.tuples(st.floats(1e-4, 10), parts), min_size=1, max_size=8)


@pytest.fixture
def page() -> Iterator[StepPage]:
    page = StepPage()
    yield page
    page.close()


@given(steps)
def test_what_steps_took_is_read_as_it_was_summed(taken: list[tuple[float, list[int]]]) -> None:
    page = StepPage()
    writer, now = vllm_worker.StepPage(page.descriptor), 100.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_worker.time, "monotonic", lambda: now)
        for seconds, computed in taken:
            began, now = now, now + seconds
            writer._end(began, [1, *computed])
    found = page.evidence()
    page.close()
    assert found is not None
    assert found.steps == len(taken)
    assert found.seconds == pytest.approx(sum(seconds for seconds, _ in taken), rel=1e-6)
    each = [(seconds, [1, *computed]) for seconds, computed in taken]
    totals = [sum(computed[place] for _, computed in each) for place in range(vllm_worker.PARTS)]
    assert list(found.totals) == totals
    places = [(one, two) for one in range(vllm_worker.PARTS) for two in range(one, vllm_worker.PARTS)]
    products = [sum(computed[one] * computed[two] / seconds for seconds, computed in each) for one, two in places]
    assert list(found.products) == pytest.approx(products, rel=1e-6)


def test_a_step_that_was_scheduled_ahead_is_not_charged_for_the_one_before(
    page: StepPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, ends = vllm_worker.StepPage(page.descriptor), iter([3.0, 4.5])
    monkeypatch.setattr(vllm_worker.time, "monotonic", lambda: next(ends))
    writer._end(1.0, [1, 0, 0, 1, 1])
    writer._end(2.0, [1, 0, 0, 1, 1])
    found = page.evidence()
    assert found is not None
    assert found.seconds == pytest.approx(2.0 + 1.5)


def test_nothing_is_known_before_a_step_is_over(page: StepPage) -> None:
    vllm_worker.StepPage(page.descriptor).begin([4, 5], 1)
    assert page.evidence() is None
    assert page.read().new == (4,)
    assert page.read().others == (5,)


def test_sums_that_it_died_in_writing_are_not_taken_for_what_was_seen(page: StepPage) -> None:
    writer = vllm_worker.StepPage(page.descriptor)
    writer._end(0.0, [1, 0, 0, 1, 1])
    vllm_worker.VERSION.pack_into(writer._page, STEP.size, 3)
    assert page.evidence() is None


def test_what_was_seen_is_known_when_the_page_is_gone() -> None:
    page = StepPage()
    vllm_worker.StepPage(page.descriptor)._end(0.0, [1, 7, 0, 1, 1])
    page.close()
    found = page.evidence()
    assert found is not None
    assert found.totals[1] == 7


def test_both_sides_mean_the_same_bytes() -> None:
    assert (vllm_worker.STEP.format, vllm_worker.EVIDENCE.format) == (STEP.format, EVIDENCE.format)
