"""What a run promises of the rows that the full model did not run, in sentences that can be quoted."""

from typing import TYPE_CHECKING, Any

from optimizer.noise_floor import NoiseFloor
from serving.records import NEAR, Lever
from serving.store.run import Run

if TYPE_CHECKING:
    import duckdb

LOOKS = """
SELECT lever, rows, audited, wrong, most_wrong, certified FROM certificates WHERE run_id = $run ORDER BY lever, look
"""
CANDIDATES = """
SELECT 'near' AS lever, count(*) AS rows FROM near WHERE run_id = $run
UNION ALL SELECT lane, count(*) FROM routes WHERE run_id = $run AND lane <> 'full' GROUP BY lane
"""
DRAWN = "SELECT lever, count(*) FROM looks WHERE run_id = $run AND audited GROUP BY lever"
SERVED = """
SELECT CASE source WHEN 'semantic' THEN 'near' ELSE lane END AS lever, count(*) AS rows
FROM rows WHERE run_id = $run AND (source = 'semantic' OR lane <> 'full') GROUP BY ALL
"""
NOISE = "SELECT count(*) AS pairs, count(*) FILTER (NOT agrees) AS differ FROM noise WHERE run_id = $run"


def promises(ledger: "duckdb.DuckDBPyConnection", run: Run) -> list[str]:
    job = run.facts["job"]
    candidates, drawn, served = (_by_lever(ledger, sql, run) for sql in (CANDIDATES, DRAWN, SERVED))
    looks: dict[Lever, list[tuple[Any, ...]]] = {lever: [] for lever in _asked(job)}
    for lever, *told in ledger.execute(LOOKS, {"run": run.run_id}).fetchall():
        looks[lever].append(tuple(told))
    lines = [
        f"{_answers(lever)}: {_promise(seen, served.get(lever, 0), job['quality'])}"
        if seen
        else f"{_answers(lever)}: none. {candidates[lever]} rows could be, {_why_none(lever, drawn.get(lever, 0))}"
        for lever, seen in looks.items()
        if seen or candidates.get(lever)
    ]
    return [*lines, *_noise(ledger, run)]


def _asked(job: dict[str, Any]) -> list[Lever]:
    """The levers that a job asks for under a certificate."""
    of_model = job["model"]
    lanes = [*of_model.get("cheaper", {}), *(["quantized"] if of_model["quantized"] is not None else [])]
    near = [NEAR] if job["reuse"]["semantic"] else []
    return near + (lanes if job["route"]["to_quantized"] == "certified" else [])


def _answers(lever: Lever) -> str:
    return "near-duplicates" if lever == NEAR else f"{lever} answers"


def _why_none(lever: Lever, drawn: int) -> str:
    if not drawn:
        return "too few for a certificate that audits only some of them"
    ended = "the run ended before its audits did"
    return ended if lever == NEAR else f"but its engine was not worth a start, or {ended}"


def _promise(looks: list[tuple[Any, ...]], served: int, quality: dict[str, Any]) -> str:
    confidence = f"with {quality['confidence']:.0%} confidence"
    seen = [f"{audited} of {rows} audited, {wrong} wrong" for rows, audited, wrong, _, _ in looks]
    *_, wrong, most_wrong, certified = looks[-1]
    if not certified:
        return f"none. At most {quality['max_wrong']:.4g} of them may be wrong, {confidence}: {'; '.join(seen)}"
    after = f", after {len(looks) - 1} other look{'s' * (len(looks) > 2)}" if len(looks) > 1 else ""
    return f"at most {most_wrong - wrong} of {served} are wrong, {confidence} ({seen[-1]}{after})"


def _noise(ledger: "duckdb.DuckDBPyConnection", run: Run) -> list[str]:
    [(pairs, differ)] = ledger.execute(NOISE, {"run": run.run_id}).fetchall()
    floor = NoiseFloor(pairs, differ)
    if floor.share is None:
        return []
    low, high = floor.interval
    return [f"asked again, the full model itself says something else in {floor.share:.1%} ({low:.1%} to {high:.1%})"]


def _by_lever(ledger: "duckdb.DuckDBPyConnection", sql: str, run: Run) -> dict[str, int]:
    return dict(ledger.execute(sql, {"run": run.run_id}).fetchall())
