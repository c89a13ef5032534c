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
from typing import IO, TYPE_CHECKING, Any

from serving.intake.confine import MEMORY_BYTES, confine, limit_memory
from serving.intake.files import BadInput
from serving.intake.order import Order
from serving.records import Refusal
from serving.store.durable import DiskFault

if TYPE_CHECKING:
    from serving.intake.admit import Admitted
    from serving.intake.render import Renderer
    from serving.store.parts import PartWriter

TELL_EVERY_S = 0.5


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    order = Order.from_json(sys.stdin.read())
    confine(parent, len(order.files), order.decoded_bytes_at_most)
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as out:
        _tell(out, _outcome(order, out))


def _outcome(order: Order, out: IO[str]) -> dict[str, Any]:
    try:
        return {"done": _admit(order, out)}
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


def _admit(order: Order, out: IO[str]) -> int:
    """Write the parts of the stage and, last, its manifest; returns the number of rows."""
    from serving.intake.admit import Admission
    from serving.intake.ids import Ids
    from serving.store.parts import PartWriter
    from serving.store.schemas import REFUSED, REQUESTS

    parts = PartWriter(order.folder, "admit", {"requests": REQUESTS, "refusals": REFUSED})
    with Ids(order.folder) as ids:
        admission = Admission(order.form, _renderer(order), ids)
        limit_memory()
        # Rows hold no cycles, and of a line of a million values each would be looked at again and again.
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        rows = 0
        told_s = time.monotonic()
        for file in order.files:
            _tell(out, {"file": file.name})
            for row in admission.read(file):
                if isinstance(row, Refusal) and order.stop_at_a_bad_row:
                    raise _as_bad_input(row)
                rows += 1
                _add(parts, row)
                if rows % 256 == 0 and time.monotonic() - told_s > TELL_EVERY_S:
                    told_s = time.monotonic()
                    _tell(out, {"rows": rows})
        ids.must_be_unique()
    if rows == 0:
        names = ", ".join(file.name for file in order.files)
        raise BadInput("E_EMPTY", f"{names}: no rows; there is nothing to answer, so name a file with some")
    parts.finish({"rows": rows})
    return rows


def _add(parts: "PartWriter", row: "Admitted | Refusal") -> None:
    from serving.store.schemas import refusal_to_columns

    if isinstance(row, Refusal):
        parts.add("refusals", refusal_to_columns(row))
    else:
        parts.add("requests", columns_of(row))


def columns_of(row: "Admitted") -> dict[str, Any]:
    """What serving.store.schemas.request_to_columns makes of the request, without a copy of every value on the way."""
    from serving.intake.admit import canonical, how

    request, ids = row.request, row.request.prompt_token_ids
    turns = [{"role": message.role, "content": message.content} for message in request.messages]
    return {
        "row": request.row,
        "custom_id": request.custom_id,
        "endpoint": request.endpoint.value,
        "messages": canonical(turns),
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


def _tell(out: IO[str], value: dict[str, Any]) -> None:
    out.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
