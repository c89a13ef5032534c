"""Admission in a process of its own: an order on stdin, JSON lines out on the descriptor named in argv.

It reads text from outside, so it is confined: what breaks it breaks nothing else. Nothing is pickled on the way.
"""

import gc
import json
import os
import sys
import time
import traceback
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from serving.intake.confine import MEMORY_BYTES, confine, limit_memory
from serving.intake.files import BadInput
from serving.intake.order import Order
from serving.records import Refusal
from serving.store.durable import DiskFault

if TYPE_CHECKING:
    from serving.intake.admit import Admitted
    from serving.intake.ids import Ids
    from serving.intake.render import Renderer
    from serving.intake.team import Share
    from serving.store.parts import PartWriter

TELL_EVERY_S = 0.5
Found = dict[str, Any]  # what a process tells of what it did


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    order = Order.from_json(sys.stdin.read())
    confine(parent, len(order.files), order.decoded_bytes_at_most)
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as out:
        _tell(out, _told(order, partial(_admit, order, out)))


def _told(order: Order, work: Callable[[], Found]) -> Found:
    """What `work` finds, or what stopped it, as it is told to the other side."""
    try:
        return work()
    except BadInput as fault:
        return {"refused": [fault.code, fault.reason]}
    except MemoryError:
        reason = f"the input needs more than the {MEMORY_BYTES >> 20} MiB that admission may use; write smaller rows"
        return {"refused": ["E_LIMIT", reason]}
    except DiskFault as fault:
        return {"disk": [fault.errno, str(fault)]}
    except OSError as fault:
        return {"failed": [fault.errno, fault.strerror, str(fault.filename or order.folder)]}
    except Exception:  # noqa: BLE001 (the other side raises it; here nobody would see it)
        return {"bug": traceback.format_exc()}


def _admit(order: Order, out: IO[str]) -> Found:
    """Write the parts of the stage and, last, its manifest."""
    from serving.intake.admit import MAX_SCHEMAS
    from serving.intake.team import processes_for

    renderer = _renderer(order)
    limit_memory()
    # Rows hold no cycles, and of a line of a million values each would be looked at again and again.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    processes = processes_for(order.files)
    found = _admit_by(processes, order, renderer, out, MAX_SCHEMAS)
    if found is None:  # too many schemas; which of them are too many depends on which came first
        found = _admit_by(1, order, renderer, out, MAX_SCHEMAS)
    assert found is not None
    return found


def _admit_by(processes: int, order: Order, renderer: "Renderer", out: IO[str], most_schemas: int) -> Found | None:
    from serving.intake.ids import Ids, must_be_unique
    from serving.intake.team import Helper, Share
    from serving.store.parts import Part, PartWriter
    from serving.store.schemas import REFUSED, REQUESTS

    key = os.urandom(16)
    tables = {"requests": REQUESTS, "refusals": REFUSED}
    parts = [PartWriter(order.folder, "admit", tables, first=place == 0) for place in range(processes)]
    with ExitStack() as opened:
        ids = [opened.enter_context(Ids(order.folder, key)) for _ in range(processes)]

        def judge(place: int) -> Found:
            tell = partial(_tell, out) if place == 0 else _say_nothing
            judging = Judging(order, renderer, ids[place], parts[place], Share(place, processes), tell)
            return {**_told(order, judging.run), "row": judging.admission.rows}

        helpers = [Helper(partial(judge, place)) for place in range(1, processes)]
        shares = [judge(0), *(helper.found() for helper in helpers)]
        if stopped := [share for share in shares if "parts" not in share]:
            return min(stopped, key=lambda share: int(share["row"]))
        if len({schema for share in shares for schema in share["schemas"]}) > most_schemas:
            return None
        for noted, share in zip(ids[1:], shares[1:], strict=True):
            noted.digests.frombytes(b64decode(share["digests"]))
        must_be_unique(ids)
    if shares[0]["row"] == 0:
        names = ", ".join(file.name for file in order.files)
        raise BadInput("E_EMPTY", f"{names}: no rows; there is nothing to answer, so name a file with some")
    every = (Part.from_facts(facts) for share in shares for facts in share["parts"])
    parts[0].finish({"rows": shares[0]["row"]}, sorted(every, key=lambda part: part.name))
    return {"done": shares[0]["row"]}


class Judging:
    """One process's share of the rows, judged and written."""

    def __init__(
        self,
        order: Order,
        renderer: "Renderer",
        ids: "Ids",
        parts: "PartWriter",
        share: "Share",
        tell: Callable[[Found], None],
    ) -> None:
        from serving.intake.admit import Admission

        self.admission = Admission(order.form, renderer, ids, None if share.of == 1 else share.holds)
        self._order, self._ids, self._parts, self._tell = order, ids, parts, tell
        self._block = -1
        self._told_s = time.monotonic()

    def run(self) -> Found:
        from serving.intake.team import BLOCK_ROWS

        for file in self._order.files:
            self._tell({"file": file.name})
            for row in self.admission.read(file):
                if isinstance(row, Refusal) and self._order.stop_at_a_bad_row:
                    raise _as_bad_input(row)
                place = self.admission.rows
                if place // BLOCK_ROWS != self._block:
                    self._block = place // BLOCK_ROWS
                    self._parts.begin(self._block)
                _add(self._parts, row)
                if place % 256 == 0 and time.monotonic() - self._told_s > TELL_EVERY_S:
                    self._told_s = time.monotonic()
                    self._tell({"rows": place})
        self._ids.flush()
        return {
            "parts": [part.to_facts() for part in self._parts.cut()],
            "digests": b64encode(self._ids.digests).decode(),
            "schemas": sorted(self.admission.schemas),
        }


def _add(parts: "PartWriter", row: "Admitted | Refusal") -> None:
    from serving.store.schemas import refusal_to_columns

    if isinstance(row, Refusal):
        parts.add("refusals", refusal_to_columns(row))
    else:
        parts.add("requests", columns_of(row))


def columns_of(row: "Admitted") -> dict[str, Any]:
    """What serving.store.schemas.request_to_columns makes of the request, without a copy of every value on the way."""
    from serving.intake.admit import how
    from serving.own_json import own_json

    request, ids = row.request, row.request.prompt_token_ids
    return {
        "row": request.row,
        "custom_id": request.custom_id,
        "endpoint": request.endpoint.value,
        "messages": own_json(request.messages).decode(),
        "sampling": how(request.sampling),
        "prompt_tokens": None if ids is None else len(ids),
        "prompt_token_ids": ids if ids is None else array("i", ids),
        "adapter": request.adapter,
        "key": row.key,
        "frame": row.frame,
        "text": row.text,
        "file": row.file,
        "line": row.line,
    }


def _renderer(order: Order) -> "Renderer":
    from serving.intake.render import ModelRenderer, PlainRenderer

    if order.model is None:
        return PlainRenderer()
    model, most_tokens = order.model, order.form.max_model_len
    return ModelRenderer(model.tokenizer_json, model.chat_template, model.special_tokens, most_tokens)


def _as_bad_input(row: Refusal) -> BadInput:
    way = 'mend the row, or set dataset.on_bad_row = "refuse" to answer the others'
    return BadInput(row.code, f"{row.file}:{row.line}: {row.reason}; {way}")


def _tell(out: IO[str], value: Found) -> None:
    out.write(json.dumps(value) + "\n")


def _say_nothing(value: Found) -> None:
    pass


if __name__ == "__main__":
    main()
