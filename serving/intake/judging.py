"""One process's share of the rows: read, judged, and written as parts of the stage."""

import time
from array import array
from collections.abc import Callable
from typing import Any

from serving.intake import team
from serving.intake.admit import Admission, Admitted
from serving.intake.files import BadInput
from serving.intake.ids import Ids
from serving.intake.order import Order
from serving.intake.render import Renderer
from serving.intake.team import Share
from serving.own_json import own_json
from serving.records import Refusal, sampling_json
from serving.store.parts import PartWriter
from serving.store.schemas import refusal_to_columns

TELL_EVERY_S = 0.5


class Judging:
    """One process's share of the rows, judged and written."""

    def __init__(
        self,
        order: Order,
        renderer: Renderer,
        ids: Ids,
        parts: PartWriter,
        share: Share,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.admission = Admission(order.form, renderer, ids, None if share.of == 1 else share.holds)
        self._order, self._ids, self._parts, self._tell = order, ids, parts, tell
        self._block = -1
        self._told_s = time.monotonic()

    def run(self) -> dict[str, Any]:
        for file in self._order.files:
            self._tell({"file": file.name})
            for row in self.admission.read(file):
                if isinstance(row, Refusal) and self._order.stop_at_a_bad_row:
                    raise _as_bad_input(row)
                place = self.admission.rows
                if place // team.BLOCK_ROWS != self._block:
                    self._block = place // team.BLOCK_ROWS
                    self._parts.begin(self._block)
                _add(self._parts, row)
                if place % 256 == 0 and time.monotonic() - self._told_s > TELL_EVERY_S:
                    self._told_s = time.monotonic()
                    self._tell({"rows": place})
        self._ids.flush()
        return {
            "parts": [part.to_facts() for part in self._parts.cut()],
            "schemas": sorted(self.admission.schemas),
        }


def _add(parts: PartWriter, row: Admitted | Refusal) -> None:
    if isinstance(row, Refusal):
        parts.add("refusals", refusal_to_columns(row), len(row.reason))
    else:
        columns = columns_of(row)
        ids = columns["prompt_token_ids"]
        parts.add("requests", columns, len(columns["messages"]) + len(row.text) + (4 * len(ids) if ids else 0))


def columns_of(row: Admitted) -> dict[str, Any]:
    request = row.request
    ids = request.prompt_token_ids
    return {
        "row": request.row,
        "custom_id": request.custom_id,
        "file": row.file,
        "line": row.line,
        "endpoint": request.endpoint.value,
        "messages": own_json(request.messages),
        "sampling": sampling_json(request.sampling),
        "prompt_tokens": None if ids is None else len(ids),
        "prompt_token_ids": ids if ids is None else array("i", ids),  # while it waits, small
        "adapter": request.adapter,
        "key": row.key,
        "frame": row.frame,
        "text": row.text,
    }


def _as_bad_input(row: Refusal) -> BadInput:
    way = 'mend the row, or set dataset.on_bad_row = "refuse" to answer the others'
    return BadInput(row.code, f"{row.file}:{row.line}: {row.reason}; {way}")
