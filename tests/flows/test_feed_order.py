"""Requests laid out in planned order: each once, whole groups together over the whole lane, whatever its size."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.feed_order import Finished, finished_lengths, in_order
from flows.feeding import feed
from flows.members import pending_rows
from optimizer.order.tree import Places
from tests.flows.conftest import Open

COLUMNS = ["row", "messages", "sampling", "prompt_token_ids"]
NOTHING = Finished(np.empty(0, np.int64), np.empty(0, np.int64))


class Requests:
    """A table of requests in parts; row numbers have gaps, as where rows were refused."""

    def __init__(self, prompts: list[list[int] | None], max_tokens: int = 50, part_rows: int = 7) -> None:
        rows = [3 * place for place in range(len(prompts))]
        self.table = pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "messages": pa.array(["text"] * len(rows)),
                "sampling": pa.array([str(max_tokens)] * len(rows)),
                "prompt_token_ids": pa.array(prompts, pa.list_(pa.int32())),
            }
        )
        self.rows = np.array(rows)
        self._part_rows = part_rows

    def read(self, rows: Places, columns: list[str]) -> Iterator[pa.Table]:
        for start in range(0, self.table.num_rows, self._part_rows):
            part = self.table.slice(start, self._part_rows)
            yield part.filter(pa.array(np.isin(part["row"].to_numpy(), rows))).select(columns)

    def fed(self, folder: Path, finished: Finished = NOTHING, pending: Places | None = None) -> list[int]:
        pending = self.rows if pending is None else pending
        stretches = in_order(self.read, pending, lambda _: finished, as_numbers, 4, COLUMNS, folder)
        return [row for table in stretches for row in table["row"].to_pylist()]


def as_numbers(samplings: pa.ChunkedArray) -> Places:
    return samplings.cast(pa.int64()).to_numpy()


def templates(rows: int, kinds: int = 5) -> list[list[int] | None]:
    return [[row % kinds] * 32 + [row] for row in range(rows)]


@pytest.fixture(params=[1024, 16], ids=["in one stretch", "in many stretches, through files"])
def stretches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.feed_order.STRETCH_ROWS", (request.param, request.param))
    monkeypatch.setattr("flows.spill.IN_MEMORY_BYTES", 64)


@pytest.mark.usefixtures("stretches")
def test_a_group_is_together_over_the_whole_lane(tmp_path: Path) -> None:
    requests = Requests(templates(100))
    fed = requests.fed(tmp_path)
    assert sorted(fed) == requests.rows.tolist()
    kinds = [row // 3 % 5 for row in fed]
    assert sum(one != other for one, other in pairwise(kinds)) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("stretches")
def test_only_what_is_pending_is_fed(tmp_path: Path) -> None:
    requests = Requests(templates(60))
    pending = requests.rows[::2]
    assert sorted(requests.fed(tmp_path, pending=pending)) == pending.tolist()


@pytest.mark.usefixtures("stretches")
def test_without_tokens_rows_are_fed_as_they_arrived(tmp_path: Path) -> None:
    requests = Requests([None] * 40)
    assert requests.fed(tmp_path) == requests.rows.tolist()


@pytest.mark.usefixtures("stretches")
def test_a_group_whose_answers_have_been_long_goes_first(tmp_path: Path) -> None:
    requests = Requests(templates(100))
    done = requests.rows[:50]
    lengths = np.where(done // 3 % 5 == 4, 45, 2)  # of the last template long ones
    fed = requests.fed(tmp_path, Finished(done, lengths), requests.rows[50:])
    assert [row // 3 % 5 for row in fed[:10]] == [4] * 10


def test_the_last_stretch_is_planned_with_what_has_finished_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.feed_order.STRETCH_ROWS", (32, 32))
    requests = Requests([[row // 16] * 32 + [row] for row in range(64)])  # four groups, two to a stretch
    known = [NOTHING]
    fed: list[int] = []
    for table in in_order(requests.read, requests.rows, lambda _: known[-1], as_numbers, 4, COLUMNS, tmp_path):
        fed += [row // 3 for row in table["row"].to_pylist()]
        # Rows of the last group, though not of this table, have been seen to be long, and all others short.
        seen = [*range(8), *range(32, 40), *range(48, 56)]
        known.append(Finished(3 * np.array(seen), np.array([2] * 16 + [45] * 8)))
    assert fed[:32] == list(range(32))
    assert [place // 16 for place in fed[32:]] == [3] * 16 + [2] * 16


@pytest.mark.usefixtures("stretches")
def test_a_lane_too_large_for_one_plan_is_planned_in_portions_of_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.feed_order.PORTION_ROWS", 60)
    requests = Requests(templates(170))
    fed = requests.fed(tmp_path)
    for portion in np.array_split(requests.rows, 3):
        here = [fed.pop(0) for _ in portion]
        assert sorted(here) == portion.tolist()
        assert sum(one // 3 % 5 != other // 3 % 5 for one, other in pairwise(here)) == 4


def test_each_portion_learns_from_what_has_finished_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.feed_order.PORTION_ROWS", 50)
    requests = Requests(templates(150))
    done = np.concatenate([requests.rows[:50], requests.rows[100:]])
    kind = done // 3 % 5
    lengths = np.where(kind == np.where(done < 300, 4, 3), 45, 2)  # of another template in the later half
    pending = np.concatenate([requests.rows[50:100] - 150, requests.rows[100:]])
    fed = requests.fed(tmp_path, Finished(done, lengths), np.unique(pending))
    assert sorted(fed) == np.unique(pending).tolist()
    assert [row // 3 % 5 for row in fed[:10]] == [4] * 10
    assert [row // 3 % 5 for row in fed[50:60]] == [3] * 10


def test_where_nothing_is_pending_nothing_is_fed(tmp_path: Path) -> None:
    assert Requests(templates(10)).fed(tmp_path, pending=np.empty(0, np.int64)) == []


def test_a_lane_feeds_its_requests_whole(opened: Open) -> None:
    with opened("one", "two", "three") as work:
        (lane, *_) = work.job.lanes.values()
        pending = pending_rows(work, lane)
        assert [request.messages[0].content for request in feed(work, "full", pending)] == ["one", "two", "three"]
        assert finished_lengths(work).row.tolist() == []
