"""A run as one HTML page: what it cost and saved, what is certain of its answers, how it ran, and what to change next.

It needs nothing but itself: no script, no font, no picture from elsewhere. Whatever a dataset says on it is escaped.
"""

from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from flows.pictures import charts
from flows.receipt import LEAST_SHOWN_USD, Receipt
from flows.report.advice import advice_for
from flows.report.figures import Figures, figures_of, settings_of
from flows.terminal import printable
from serving.engines.ceilings import Ceilings
from serving.store.durable import make_folder, write_bytes
from serving.store.run import Run


def write_page(run: Run) -> Path:
    """Raises Corrupt where the run cannot be read."""
    file = run.export / "report.html"
    make_folder(run.export)
    write_bytes(file, page(figures_of(run)).encode())
    return file


def page(figures: Figures) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = files("flows.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    drawn = {name: Markup(svg) if svg else None for name, svg in _charts(figures).items()}
    lengths = [(f"Lengths of {of}s", drawn[of]) for of in ("prompt", "answer") if drawn[of]]
    return environment.from_string(template).render(**_told(figures), **drawn, lengths=lengths)


def _told(figures: Figures) -> dict[str, Any]:
    receipt, facts = figures.receipt, figures.facts
    return {
        "run_id": receipt.run.run_id,
        "headline": _headline(figures),
        "counts": receipt.counts,
        "dataset": printable(facts["job"]["dataset"]["path"]),
        "figures": _figures(figures),
        "advice": advice_for(figures),
        "savings": _shown_steps(receipt),
        "lanes": [_lane(lane) for lane in receipt.lanes],
        "overheads": [(kind.replace("_", "-"), line) for kind, line in receipt.overheads.items() if kind != "start_up"],
        "price": _price(facts["price"]),
        "certain": _certain(figures),
        "certificates": figures.certificates,
        "judge": facts["job"]["quality"]["judge"],
        "speculation": figures.speculation,
        "ceilings_of": _ceilings(figures.roofline.ceilings) if figures.roofline else None,
        "refused": [_shown(row) for row in figures.refused],
        "failed": [_shown(row) for row in figures.failed],
        "environment": _environment(facts),
        "settings": printable(settings_of(figures), keep="\n"),
    }


def _charts(figures: Figures) -> dict[str, str | None]:
    receipt = figures.receipt
    steps = [(step["step"], float(step["saved_usd"])) for step in _shown_steps(receipt)]
    known, roof = receipt.baseline_usd is not None, figures.roofline
    return {
        "waterfall": charts.waterfall(float(receipt.baseline_usd or 0), steps, float(receipt.counts["usd"]))
        if known
        else None,
        "pace": charts.pace(figures.pace) if figures.pace else None,
        "roofline": charts.roofline(roof.ceilings.flop_s, roof.ceilings.bytes_s, roof.spots) if roof else None,
        "cache": charts.cache(figures.pace) if figures.pace else None,
        "predicted": charts.predicted(figures.predicted) if figures.predicted else None,
        **{
            of: charts.lengths(figures.lengths, of) if any(bar["of"] == of for bar in figures.lengths) else None
            for of in ("prompt", "answer")
        },
    }


def _certain(figures: Figures) -> list[str]:
    receipt = figures.receipt
    if receipt.promises:
        return receipt.promises
    cheaper = [lane for lane in receipt.lanes if lane["lane"] != "full"]
    by_rule = {lane["lane"]: lane["rows_run"] + lane["rows_reused"] for lane in cheaper}
    if not by_rule:
        return ["Every answer is the full model's own, or its answer to an equal request."]
    rule = figures.facts["job"]["route"]["to_quantized"]
    return [
        f"{lane}: {rows:,} rows have this lane's answer by the job's own rule, to_quantized = {rule!r}; how many of"
        ' them differ from the full model\'s was not looked at ("certified" would)'
        for lane, rows in by_rule.items()
    ]


def _shown_steps(receipt: Receipt) -> list[dict[str, Any]]:
    return [step for step in receipt.savings if abs(step["saved_usd"]) >= LEAST_SHOWN_USD]


def _headline(figures: Figures) -> str:
    receipt = figures.receipt
    usd, answered = receipt.counts["usd"], receipt.counts["answered"]
    told = f"{answered:,} answers for ${usd:.6f}"
    if not receipt.baseline_usd:
        return told
    baseline = receipt.baseline_usd
    share = (baseline - usd) / baseline
    than = "less" if share >= 0 else "more"
    return f"{told}, {abs(share):.0%} {than} than every row in the full lane would have cost (estimated)"


def _figures(figures: Figures) -> list[tuple[str, str]]:
    receipt = figures.receipt
    counts = receipt.counts
    seconds = sum(lane["engine_s"] for lane in receipt.lanes) + sum(
        line["seconds"] for line in receipt.overheads.values()
    )
    per_thousand = (
        [("per 1,000 answers", f"${counts['usd'] * 1000 / counts['answered']:.4f}")] if counts["answered"] else []
    )
    shared = sum(receipt.sources.get(source, 0) for source in ("exact", "semantic", "earlier"))
    return [
        ("spent", f"${counts['usd']:.6f}"),
        *per_thousand,
        ("engine time", f"{seconds:,.0f} s"),
        ("answered without a run", f"{shared:,}"),
        ("prompt tokens cached", f"{_cached(receipt.lanes):.0f} %"),
    ]


def _cached(lanes: list[dict[str, Any]]) -> float:
    prompts = sum(lane["prompt_tokens"] for lane in lanes)
    return 100 * sum(lane["cached_tokens"] for lane in lanes) / prompts if prompts else 0.0


def _lane(lane: dict[str, Any]) -> dict[str, Any]:
    pace = f"{lane['completion_tokens'] / lane['engine_s']:,.0f}" if lane["engine_s"] else ""
    return {**lane, "cached_percent": _cached([lane]), "pace": pace, "model": printable(lane["model"])}


def _price(facts: dict[str, Any]) -> str:
    if facts["usd_per_hour"] is not None:
        told = f"${Decimal(facts['usd_per_hour']).normalize():f} an hour"
    else:
        told = f"${facts['input_usd_per_mtok']} for a million tokens in, ${facts['output_usd_per_mtok']} out"
    return f"{told} ({', '.join(dict.fromkeys((facts['source'], facts['as_of'])))})"


def _ceilings(of: Ceilings) -> str:
    return f"{of.flop_s / 1e9:,.0f} GFLOP/s and {of.bytes_s / 1e9:,.1f} GB/s, {of.said_by}"


def _environment(facts: dict[str, Any]) -> list[tuple[str, str]]:
    began = datetime.fromtimestamp(facts["created_unix_s"], UTC)
    machine = {f"machine, {name}": value for name, value in facts["machine"].items()}
    told = {
        "begun": f"{began:%Y-%m-%d %H:%M} UTC",
        "input sha256": facts["input"]["sha256"],
        **machine,
        **facts["versions"],
    }
    return [(name.replace("_", " "), printable(str(value))) for name, value in told.items()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: printable(str(value)) if isinstance(value, str) else value for name, value in row.items()}
