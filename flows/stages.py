"""Collapse, route and publish: plain functions over an open job. A complete stage is not run again."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flows.limits import Stopped
from flows.open import Work
from optimizer.collapse import Pair, assign, exact_representatives, judge_pairs, star_cover
from optimizer.cost import usd_of_time
from optimizer.route import route as lane_of
from serving.records import sampling_from_json
from serving.store.parts import PartWriter, read_manifest
from serving.store.schemas import MEMBERS, PAIRS, REQUESTS, ROUTES

if TYPE_CHECKING:
    from serving.reuse.embed import Embedder, Vectors

Figures = dict[str, Any]
EMBED_ROWS = 256


def collapse(work: Work) -> Figures:
    """Which rows may share an answer? Equal keys; and near-duplicates, where the job asks for them."""
    if (done := read_manifest(work.run.collapsed)) is not None:
        return done.figures
    requests = work.run.stage(work.run.admitted).read("requests", REQUESTS, ["row", "key", "sampling"]).to_pylist()
    repeatable = {row["row"]: sampling_from_json(row["sampling"]).repeatable for row in requests}
    reuse = work.job.reuse
    keys = ((row["row"], row["key"], reuse.exact and repeatable[row["row"]]) for row in requests)
    exact = exact_representatives(keys)
    work.limits.start_clock()
    pairs = _near_duplicates(work, sorted({row for row in exact.values() if repeatable[row]})) if reuse.semantic else []
    embedding_s = work.limits.stop_clock()
    copies: dict[int, int] = {}
    for representative in exact.values():
        copies[representative] = copies.get(representative, 0) + 1
    members = assign(exact, star_cover(pairs, copies))

    parts = PartWriter(work.run.collapsed.parent, "collapse", {"pairs": PAIRS, "members": MEMBERS})
    parts.extend("pairs", (_pair(pair) for pair in pairs))
    parts.extend(
        "members",
        ({"row": row, "answered_by": to.answered_by, "source": to.source.value} for row, to in members.items()),
    )
    overheads = [_embedding(work, embedding_s)] if reuse.semantic else []
    work.limits.spend(sum((Decimal(line["usd"]) for line in overheads), Decimal(0)))
    representatives = len({to.answered_by for to in members.values()})
    return parts.finish({"representatives": representatives, "overheads": overheads}).figures


def _near_duplicates(work: Work, rows: list[int]) -> list[Pair]:
    import numpy as np

    from serving.reuse.embed import SentenceEmbedder
    from serving.reuse.neighbours import near_pairs

    columns = work.run.stage(work.run.admitted).read("requests", REQUESTS, ["row", "frame", "text"]).to_pylist()
    by_row = {columns["row"]: columns for columns in columns}
    embedder = SentenceEmbedder(work.embedder)
    whole = [row for row in rows if not embedder.truncates(by_row[row]["text"])]
    if len(whole) < 2:
        return []
    work.progress.say(f"comparing {len(whole)} prompts in meaning")
    texts = {row: by_row[row]["text"] for row in whole}
    vectors = np.concatenate([_embed(work, embedder, [texts[row] for row in block]) for block in _blocks(whole)])
    near = near_pairs(vectors, [by_row[row]["frame"] for row in whole], work.job.reuse.min_similarity)
    return judge_pairs(((whole[left], whole[right], similarity) for left, right, similarity in near), texts)


def _blocks(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + EMBED_ROWS] for start in range(0, len(rows), EMBED_ROWS)]


def _embed(work: Work, embedder: "Embedder", texts: list[str]) -> "Vectors":
    """One block of texts; between blocks the run shows that it is alive, and can be stopped."""
    if work.asked_to_stop():
        raise Stopped
    return embedder.embed(texts)


def _pair(pair: Pair) -> dict[str, Any]:
    compared = {"row": pair.row, "other_row": pair.other_row, "kind": pair.kind.value}
    return {**compared, "similarity": pair.similarity, "veto": pair.veto}


def _embedding(work: Work, seconds: float) -> dict[str, Any]:
    usd = usd_of_time(work.price, seconds)
    return {"kind": "embedding", "lane": None, "seconds": round(seconds, 3), "usd": str(usd)}


def route(work: Work) -> Figures:
    """Which lane answers each representative?"""
    if (done := read_manifest(work.run.routed)) is not None:
        return done.figures
    representatives = set(_members(work).column("answered_by").to_pylist())
    requests = work.run.stage(work.run.admitted).read("requests", REQUESTS, ["row", "prompt_tokens"]).to_pylist()
    rule = work.job.route
    parts = PartWriter(work.run.routed.parent, "route", {"routes": ROUTES})
    for request in requests:
        if request["row"] in representatives:
            to = lane_of(request["prompt_tokens"], rule.to_quantized, rule.short_prompt_tokens)
            parts.add("routes", {"row": request["row"], "lane": to.lane, "rule": to.rule})
    return parts.finish({}).figures


def _members(work: Work) -> Any:
    return work.run.stage(work.run.collapsed).read("members", MEMBERS)


def publish(work: Work) -> Figures:
    """Write the answers and errors out, and the ledger anew; a run without an open row is marked finished."""
    from serving.store.export import export
    from serving.store.finished import finish
    from serving.store.ledger import open_ledger, write_ledger

    runs = work.run.folder.parent
    with open_ledger(runs) as ledger:
        export(work.run, ledger)
        found = ledger.execute(
            "SELECT count(*) FROM requests WHERE run_id = $run"
            " AND row NOT IN (SELECT row FROM rows WHERE run_id = $run)",
            {"run": work.run.run_id},
        ).fetchone()
    open_rows = found[0] if found else 0
    if open_rows == 0:
        finish(work.run)
    write_ledger(runs)
    return {"open_rows": open_rows}
