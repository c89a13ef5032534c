"""Near-duplicates of a whole job: each text is embedded once, whatever happens meanwhile, and the run says how."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows import embedding
from flows.answer import answer
from flows.limits import Limits
from flows.progress import Silent
from flows.receipt import Receipt
from serving.config import parse_job
from serving.reuse import vectors
from serving.reuse.embed import HashEmbedder, Vectors
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.run import Run, all_runs
from serving.store.sealed import Corrupt
from serving.store.verify import verify
from serving.store.writer import Superseded, Writer

BLOCK = 4


class Killed(BaseException):
    """What a kill does to a process, as far as what follows is concerned."""


class Counting(HashEmbedder):
    """Remembers what it was asked to embed; `most` is how many texts it lives for."""

    most = 1_000
    longest = 100

    def embed(self, texts: Sequence[str]) -> Vectors:
        if len(embedded) + len(texts) > self.most:
            raise Killed
        embedded.extend(texts)
        return super().embed(texts)

    def truncates(self, text: str) -> bool:
        return len(text.split()) > self.longest


embedded: list[str] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.clear()
    monkeypatch.setattr("serving.reuse.embed.SentenceEmbedder", lambda folder: Counting())
    monkeypatch.setattr("flows.stages.can_certify", lambda work, rows: True)  # of ever so few
    monkeypatch.setattr("flows.open.open_embedder", lambda path: SimpleNamespace(fingerprint="double", files={}))
    monkeypatch.setattr(vectors, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(embedding, "EMBED_ROWS", 2)


def run_job(folder: Path, prompts: Sequence[str | tuple[str, str]]) -> Receipt:
    """A prompt alone, or a system prompt with one."""
    with (folder / "in.jsonl").open("w", encoding="utf-8") as file:
        for row, prompt in enumerate(prompts):
            system, text = prompt if isinstance(prompt, tuple) else ("", prompt)
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": text})
            file.write(json.dumps({"custom_id": f"r{row}", "body": {"messages": messages}}) + "\n")
    job = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": "echo-model"},
        "engine": {"kind": "echo"},
        "price": {"usd_per_hour": "3600"},
        "reuse": {"semantic": True, "min_similarity": 0.9, "embedder": "double"},
    }
    return answer(parse_job(job, "job"), folder / "runs", Silent())


def pairs_of(run: Run) -> list[dict[str, Any]]:
    return [pair for table in run.stage(run.collapsed).tables("pairs") for pair in table.to_pylist()]


def asked(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with open_ledger(folder / "runs") as ledger:
        return ask(ledger, sql).rows


# 14 prompts: each of seven things is asked for twice, with a small word more.
THINGS = ["apple", "pear", "plum", "fig", "quince", "lemon", "grape"]
PROMPTS = [f"where does {the}{thing} grow best" for thing in THINGS for the in ("", "the ")]


def test_equal_texts_are_embedded_once_whatever_stands_before_them(tmp_path: Path) -> None:
    prompts = [("be brief", text) for text in PROMPTS[:4]] + [("be exact", text) for text in PROMPTS[:4]]
    run = run_job(tmp_path, [*prompts, *prompts]).run
    assert Counter(embedded) == Counter(PROMPTS[:4])
    assert {(pair["row"], pair["other_row"]) for pair in pairs_of(run)} == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_a_text_that_the_embedder_does_not_see_whole_is_not_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "longest", 5)
    run = run_job(tmp_path, PROMPTS).run
    assert embedded == PROMPTS[::2]
    assert pairs_of(run) == []


@pytest.mark.parametrize("texts_before_the_kill", [0, 2, 4, 6, 12])
def test_embedding_that_was_killed_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts_before_the_kill: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "most", texts_before_the_kill)
        with pytest.raises(Killed):
            run_job(tmp_path, PROMPTS)
    [run] = all_runs(tmp_path / "runs")
    durable = texts_before_the_kill // BLOCK * BLOCK
    again = run_job(tmp_path, PROMPTS)
    assert again.exit_code == 0
    assert embedded[texts_before_the_kill:] == PROMPTS[durable:]
    assert [(pair["row"], pair["other_row"]) for pair in pairs_of(run)] == [(n, n + 1) for n in range(0, 14, 2)]
    assert verify(run).rows == len(PROMPTS)


def stop_after(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is told to stop once so many are embedded."""
    monkeypatch.setattr(Limits, "stop", lambda self: len(embedded) >= texts)


def test_what_was_embedded_before_a_stop_is_kept_and_is_no_waste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        run = run_job(tmp_path, PROMPTS).run
    assert embedded == PROMPTS[:6]
    assert not run.collapsed.exists()
    assert asked(tmp_path, "SELECT kind, usd > 0 FROM overheads") == [("embedding", True)]
    run_job(tmp_path, PROMPTS)
    assert embedded == PROMPTS
    booked = asked(tmp_path, "SELECT kind, count(*) FROM overheads WHERE kind IN ('embedding', 'waste') GROUP BY kind")
    assert booked == [("embedding", 2)]
    assert list(run.meters.iterdir()) == []


def test_a_writer_that_was_superseded_keeps_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def superseded(self: Writer) -> None:
        if len(embedded) >= 6:
            raise Superseded("run was taken over")

    monkeypatch.setattr(Writer, "check", superseded)
    with pytest.raises(Superseded):
        run_job(tmp_path, PROMPTS)
    [run] = all_runs(tmp_path / "runs")
    assert run.stage(run.embedded).figures["rows"] == BLOCK


def test_a_changed_byte_of_a_vector_ends_the_run_that_was_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        run = run_job(tmp_path, PROMPTS).run
    file = run.embedded.parent / "vectors-00000.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match=r"vectors-00000\.npy"):
        run_job(tmp_path, PROMPTS)
    with pytest.raises(Corrupt, match=r"vectors-00000\.npy"):
        verify(run)


def test_the_vectors_of_a_finished_run_are_there_with_what_they_depend_on(tmp_path: Path) -> None:
    run = run_job(tmp_path, PROMPTS).run
    found = run.stage(run.embedded)
    assert found.figures["embedder"] == run.facts["fingerprint"]["models"]["embedder"]
    assert (found.figures["rows"], found.figures["dim"]) == (14, 256)
    kept = np.concatenate([np.load(file) for file in found.files("vectors")])
    assert (kept == HashEmbedder().embed(PROMPTS)).all()
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file() and file != run.lock}
    run_job(tmp_path, PROMPTS)
    assert {file: file.read_bytes() for file in before} == before
    assert embedded == PROMPTS


def test_the_ledger_says_how_neighbours_were_looked_for(tmp_path: Path) -> None:
    run = run_job(tmp_path, PROMPTS).run
    query = named_queries()["neighbours"].sql
    assert asked(tmp_path, query) == [(run.run_id, 14, 14, 7, "all with all", 0, 0, None)]


def test_in_a_large_group_the_ledger_says_how_many_of_the_nearest_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reuse.neighbours.FLAT_ROWS", 10)
    run_job(tmp_path, PROMPTS)
    [(_, rows, texts, pairs, search, sample, found, recall)] = asked(tmp_path, named_queries()["neighbours"].sql)
    assert (rows, texts, sample) == (14, 14, 7)
    assert search.startswith("by ")
    assert recall == round(found / sample, 4)
    assert pairs <= 7


@pytest.mark.parametrize(("prompts", "longest"), [(1, 100), (2, 0)], ids=["one row", "none that is seen whole"])
def test_where_there_is_nothing_to_compare_there_is_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: int, longest: int
) -> None:
    monkeypatch.setattr(Counting, "longest", longest)
    run_job(tmp_path, PROMPTS[:prompts])
    assert embedded == []
    assert asked(tmp_path, "SELECT * FROM searches") == []
