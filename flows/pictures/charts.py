"""The charts of a run's page, as SVG that takes its colours from the page, light or dark.

Each is drawn at the size of a phone's width; on a wider page two stand side by side.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from serving.environment import own_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

# Stand-ins, which the SVG's text is searched for: the page says what each is, in daylight and in the dark.
COLOURS = {"#111101": "ink", "#111102": "quiet", "#111103": "faint", "#111104": "blue", "#111105": "vermillion",
           "#111106": "green"}  # fmt: skip
INK, QUIET, FAINT, BLUE, VERMILLION, GREEN = COLOURS
WIDTH_INCHES = 4.6
LEAST_BAR = 0.002  # of the widest, so that a bar of nearly nothing is still seen
FACTORS = {"tokens": "tokens", "s_per_token": "seconds a token", "start_up_s": "start-up", "seconds": "engine time",
           "usd": "cost", "near_saved_usd": "saved by near-duplicates"}  # fmt: skip


def waterfall(baseline_usd: float, steps: Sequence[tuple[str, float]], bill_usd: float) -> str:
    """From what every row would have cost in the full lane to what was paid: `steps` are what each saved, or cost."""
    bars: list[tuple[str, float, float, str]] = [("every row in the full lane", 0.0, baseline_usd, QUIET)]
    at = baseline_usd
    for name, saved in steps:
        bars.append((name, at, at - saved, GREEN if saved > 0 else VERMILLION))
        at -= saved
    bars.append(("paid", 0.0, bill_usd, BLUE))

    def draw(axes: "Axes") -> None:
        widest = max(max(start, end) for _, start, end, _ in bars) or 1.0
        for place, (name, start, end, colour) in enumerate(bars):
            width = max(abs(end - start), LEAST_BAR * widest)
            axes.barh(place + 0.22, width, left=min(start, end), height=0.42, color=colour, zorder=3)
            axes.text(0, place - 0.2, name, va="center", color=INK)
            plain = place in (0, len(bars) - 1)
            told = f"${end:.6f}" if plain else f"{start - end:+.6f}"
            axes.text(widest, place - 0.2, told, va="center", ha="right", color=INK if plain else QUIET)
        axes.set(xlim=(0, widest), ylim=(len(bars) - 0.4, -0.6))
        axes.set_axis_off()

    return _drawn("waterfall", 0.36 * len(bars) + 0.1, draw)


def pace(spans: Sequence[Row]) -> str:
    """Tokens a second of each lane, over the engine time of the run."""

    def draw(axes: "Axes") -> None:
        at, colours = 0.0, _colours([span["lane"] for span in spans])
        ends: dict[str, tuple[float, float]] = {}
        for span in spans:
            rate = (span["prefilled"] + span["generated"]) / span["seconds"]
            axes.fill_between(
                [at, at + span["seconds"]], [rate, rate], color=colours[span["lane"]], alpha=0.25, linewidth=0
            )
            axes.plot([at, at + span["seconds"]], [rate, rate], color=colours[span["lane"]], linewidth=1.8)
            ends[span["lane"]] = (at + span["seconds"], rate)
            at += span["seconds"]
        for lane, (x, y) in ends.items():
            axes.annotate(lane, (x, y), xytext=(-2, 4), textcoords="offset points", ha="right", color=colours[lane])
        axes.set(xlim=(0, at), ylim=(0, axes.get_ylim()[1] * 1.12))
        _axes(axes, "seconds of engine time", "tokens computed a second")

    return _drawn("pace", 2.5, draw)


def cache(spans: Sequence[Row]) -> str:
    """The prefix cache and the KV cache over the run: what of prompts was found in it, and how full it was."""

    def draw(axes: "Axes") -> None:
        edges = [0.0]
        for span in spans:
            edges.append(edges[-1] + span["seconds"])
        told = (("found_share", "of prompt tokens, found", GREEN, 1.0), ("kv_share", "of blocks, in use", BLUE, 0.0))
        for name, said, colour, place in told:
            shares = [math.nan if span[name] is None else 100 * span[name] for span in spans]
            axes.stairs(shares, edges, color=colour, linewidth=1.8, baseline=None)
            axes.text(place, 1, said, ha="right" if place else "left", va="top", color=colour, transform=axes.transAxes)
        axes.set(xlim=(0, edges[-1]), ylim=(0, 125))
        axes.set_yticks([0, 50, 100])
        _axes(axes, "seconds of engine time", "percent")

    return _drawn("cache", 2.5, draw)


def roofline(flop_s: float, bytes_s: float, spots: Sequence[tuple[str, float, float]]) -> str:
    """What the machine could do at the most, and where lanes stood below it: `spots` are a name, FLOP for each byte
    moved, and FLOP/s."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter, FuncFormatter

        ridge = flop_s / bytes_s
        across = [ridge, *(spot[1] for spot in spots)]
        left, right = min(across) / 4, max(across) * 4
        top, lowest = flop_s * 2, min(left * bytes_s, *(spot[2] for spot in spots))
        words = min(0.6, 0.1 + 0.09 * len(spots))  # of the height, which is kept free for them
        bottom = lowest / (top / lowest) ** (words / (1 - words))
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
        axes.plot([left, ridge, right], [left * bytes_s, flop_s, flop_s], color=INK, linewidth=2, zorder=2)
        axes.plot([ridge, ridge], [bottom, flop_s], color=QUIET, linewidth=1, linestyle=":", zorder=1)
        colours = _colours([name.partition(":")[0] for name, _, _ in spots])
        for place, (name, x, y) in enumerate(sorted(spots, key=lambda spot: spot[2])):
            colour, marker = colours[name.partition(":")[0]], "D" if name.endswith("prefill") else "o"
            axes.plot([x], [y], marker=marker, color=colour, markersize=6.5, zorder=4)
            up = 0.05 + 0.09 * place
            axes.plot([0.56], [up + 0.015], marker=marker, color=colour, markersize=5, transform=axes.transAxes)
            said = f"{name}, {y / min(flop_s, x * bytes_s):.0%}"
            axes.text(0.59, up, said, color=colour, transform=axes.transAxes)
        _axes(axes, "FLOP for each byte moved", "FLOP/s")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(EngFormatter(places=0, sep=" "))

    return _drawn("roofline", 3.0, draw)


def lengths(bins: Sequence[Row], of: str) -> str:
    """How many rows have prompts, or answers, of so many tokens; half an octave a bar."""
    own = [bar for bar in bins if bar["of"] == of]

    def draw(axes: "Axes") -> None:
        axes.bar(
            [bar["bin"] / 2 for bar in own], [bar["rows"] for bar in own], width=0.46, align="edge",
            color=BLUE if of == "prompt" else GREEN, zorder=3,
        )  # fmt: skip
        low, high = min(bar["bin"] for bar in own) // 2, max(bar["bin"] for bar in own) // 2 + 1
        step = max(1, (high - low) // 6)
        axes.set_xticks(range(low, high + 1, step), [f"{2**power:,}" for power in range(low, high + 1, step)])
        _axes(axes, f"tokens of {'a prompt' if of == 'prompt' else 'an answer'}", "rows")

    return _drawn(f"lengths-{of}", 2.2, draw)


def predicted(told: Sequence[Row]) -> str:
    """What was measured as a multiple of what was foretold, with the interval that was to hold it nine times in ten."""
    rows = [row for row in told if row["predicted"] and row["predicted"] > 0]

    def draw(axes: "Axes") -> None:
        for place, row in enumerate(rows):
            low, high, was = (row[name] / row["predicted"] for name in ("low_90", "high_90", "measured"))
            axes.plot([low, high], [place + 0.2] * 2, color=FAINT, linewidth=6, solid_capstyle="butt", zorder=2)
            colour = GREEN if row["within"] else VERMILLION
            axes.plot([was], [place + 0.2], marker="o" if row["within"] else "D", color=colour, markersize=6, zorder=4)
            name = FACTORS.get(row["factor"], row["factor"])
            when = "" if row["made"] == "plan" else ", after the first rows"
            axes.text(0, place - 0.22, f"{name}, {row['lane']}{when}", transform=axes.get_yaxis_transform(), color=INK)
            axes.text(
                1, place - 0.22, f"{row['off']:+.1%}", transform=axes.get_yaxis_transform(), ha="right", color=QUIET
            )
        axes.axvline(1.0, color=QUIET, linewidth=1, zorder=1)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        _axes(axes, "measured as a multiple of what was foretold", None)

    return _drawn("predicted", 0.34 * len(rows) + 0.6, draw)


def _colours(lanes: Sequence[str]) -> dict[str, str]:
    different = dict.fromkeys(lanes)
    return {lane: (BLUE, VERMILLION, GREEN)[place % 3] for place, lane in enumerate(different)}


def _axes(axes: "Axes", across: str, up: str | None) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel(across, color=QUIET)
    if up is None:
        axes.set_yticks([])
    else:
        axes.set_ylabel(up, color=QUIET)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(True, axis="y", color=FAINT, linewidth=0.6, zorder=0)
    axes.minorticks_off()
    axes.tick_params(colors=QUIET, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _drawn(name: str, height_inches: float, draw: Callable[["Axes"], None]) -> str:
    if (folder := own_folder("matplotlib")) is not None:
        os.environ.setdefault("MPLCONFIGDIR", str(folder))
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "DejaVu Sans"}
    with rc_context(settings):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.add_subplot())
        sheet = StringIO()
        figure.savefig(sheet, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(sheet.getvalue())


def _for_the_page(svg: str) -> str:
    """Without what a file of its own needs, at whatever width the page gives it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for stand_in, name in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--face)", svg)
