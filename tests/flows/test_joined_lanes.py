"""A lane whose rows the running engine answers as well starts no engine; whatever dies, every row leaves once."""

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from flows.pilot import Pilot
from serving.store.verify import verify
from tests.flows.test_lane import Bench, answers, rows_of

MODELS = Path(__file__).parents[2] / "models"
FULL, QUANTIZED = MODELS / "smollm2-135m-instruct", MODELS / "smollm2-135m-instruct-w8a8"
pytestmark = pytest.mark.skipif(not QUANTIZED.is_dir(), reason="`gristmill models prepare` makes it")

PROMPTS = [*(f"{'a long prompt ' * 40}{number}" for number in range(4)), *(f"short {number}" for number in range(6))]


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A job of two lanes whose pilot has found that the first engine answers for both."""

    def found(work, lanes):  # type: ignore[no-untyped-def]
        assert [len(rows) for _, rows in lanes] == [4, 6]
        return Pilot(work, lanes, Decimal(0), _taken=True, _weighed=True, _joined=[lane for lane, _ in lanes[1:]])

    monkeypatch.setattr("flows.answer.pilot_of", found)
    models = {"full": str(FULL), "quantized": str(QUANTIZED)}
    return Bench(tmp_path, PROMPTS, model=models, route={"to_quantized": "auto"})


def test_one_engine_answers_for_both(joined: Bench) -> None:
    receipt = joined.run()
    assert (receipt.exit_code, joined.engines) == (0, 1)
    assert Counter(row["lane"] for row in rows_of(receipt.run)) == {"full": 10}
    assert sorted(joined.fed) == sorted(answers(receipt.run)) == [f"r{row}" for row in range(10)]
    verify(receipt.run)


@pytest.mark.parametrize("dies_after", [2, 5])
def test_what_an_engine_that_dies_leaves_open_is_answered_by_its_own_lane(joined: Bench, dies_after: int) -> None:
    receipt = joined.run(deaths=iter([dies_after]))
    assert (receipt.exit_code, joined.engines) == (0, 2)
    assert Counter(row["custom_id"] for row in rows_of(receipt.run)) == {f"r{row}": 1 for row in range(10)}
    verify(receipt.run)
