"""The stage of admission, written by one process or several: its parts, and then its manifest."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from serving.garbage import rarely_searched
from serving.intake.admit import MAX_SCHEMAS
from serving.intake.confine import limit_memory
from serving.intake.files import BadInput
from serving.intake.ids import Ids, must_be_unique
from serving.intake.judging import Judging
from serving.intake.order import Order
from serving.intake.render import ModelRenderer, PlainRenderer, Renderer
from serving.intake.team import Helper, Share, processes_for
from serving.intake.told import Found, told
from serving.store.parts import Part, PartWriter
from serving.store.schemas import REFUSED, REQUESTS

TABLES = {"requests": REQUESTS, "refusals": REFUSED}
Tell = Callable[[Found], None]


def admit_all(order: Order, tell: Tell) -> Found:
    """Returns the number of rows as `done`, or what stopped it."""
    renderer = _renderer(order)
    limit_memory()
    with rarely_searched(200_000, 20, 100):  # of a line of a million values each would be looked at again and again
        found = admit_by(processes_for(order.files), order, renderer, tell)
        if found is None:  # too many schemas; which of them are too many depends on which came first
            found = admit_by(1, order, renderer, tell)
    assert found is not None
    return found


def admit_by(
    processes: int, order: Order, renderer: Renderer, tell: Tell, most_schemas: int = MAX_SCHEMAS
) -> Found | None:
    """By so many; None where they found more schemas together than a job may have."""
    key = os.urandom(16)
    parts = [PartWriter(order.folder, "admit", TABLES, first=place == 0) for place in range(processes)]
    with ExitStack() as opened:
        ids = [opened.enter_context(Ids(order.folder, key)) for _ in range(processes)]

        def judge(place: int) -> Found:
            share = Share(place, processes)
            judging = Judging(order, renderer, ids[place], parts[place], share, tell if place == 0 else _say_nothing)
            return {**told(order, judging.run), "row": judging.admission.rows}

        helpers = [Helper(partial(judge, place)) for place in range(1, processes)]
        shares = [judge(0), *(helper.found() for helper in helpers)]
        if stopped := [share for share in shares if "parts" not in share]:
            return min(stopped, key=lambda share: int(share["row"]))
        if len({schema for share in shares for schema in share["schemas"]}) > most_schemas:
            return None
        must_be_unique(ids)
    rows = shares[0]["row"]
    if rows == 0:
        names = ", ".join(file.name for file in order.files)
        raise BadInput("E_EMPTY", f"{names}: no rows; there is nothing to answer, so name a file with some")
    every = (Part.from_facts(facts) for share in shares for facts in share["parts"])
    parts[0].finish({"rows": rows}, sorted(every, key=lambda part: part.name))
    return {"done": rows}


def _say_nothing(found: Found) -> None:
    pass


def _renderer(order: Order) -> Renderer:
    if order.model is None:
        return PlainRenderer()
    model, most_tokens = order.model, order.form.max_model_len
    return ModelRenderer(model.tokenizer_json, model.chat_template, model.special_tokens, most_tokens)
