"""The roofline of a GPU with a model's steps on it, as a picture.

How high a step could get is the lower of what memory feeds (intensity x bandwidth) and what the units compute (Williams
et al., "Roofline", CACM 2009). Colours are Okabe and Ito's, which people see apart however they see colours; what they
say is said by shapes as well.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.pictures.boxes import Box, Line
from flows.pictures.label_places import Labelled, Picture, places_of
from optimizer.planner.explanation import Explanation, Point
from serving.environment import own_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, FAINT = "#222222", "#767676", "#c9c9c9"
BLUE, VERMILLION = "#0072B2", "#D55E00"
INCHES, DOTS_PER_INCH = (10.0, 6.2), 160


def draw(of: Explanation, title: str, file: Path) -> list[Box]:
    """Writes `file`, PNG or SVG by its name; the same bytes for the same figures. Returns where words stand."""
    if (folder := own_folder("matplotlib")) is not None:
        os.environ.setdefault("MPLCONFIGDIR", str(folder))
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "gristmill", "font.family": "DejaVu Sans", "font.size": 9.5}):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _frame(axes, of)
        _roof(axes, of)
        _points(axes, of.points)
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=27)
        axes.text(0, 1.025, _subtitle(of), transform=axes.transAxes, color=QUIET, va="bottom")
        canvas.draw()
        words = _labels(axes, of, canvas.get_renderer())
        kind = file.suffix.lower().removeprefix(".")
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, metadata=metadata)
    return words


def _subtitle(of: Explanation) -> str:
    return (
        f"one step on one GPU; prompts of {of.prompt_tokens} tokens, answers of {of.output_tokens}; bars hold 90 % of"
        " measurements"
    )


def _frame(axes: "Axes", of: Explanation) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter

    intensities = [point.work.intensity for point in of.points]
    left, right = min(*intensities, 1.0) / 2.5, max(*intensities, of.ridge) * 30
    reached = [point.work.flops / point.seconds.high_90 for point in of.points]
    bottom = min(*reached, left * of.bandwidth) / 4
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, of.ceilings[-1][1] * 2.2))
    axes.set_xlabel("FLOP for each byte moved", color=INK, labelpad=6)
    axes.set_ylabel("FLOP/s of one GPU", color=INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(EngFormatter(places=0, sep=" "))
    axes.minorticks_off()
    axes.grid(True, which="major", color="#efefef", linewidth=0.8, zorder=0)
    axes.tick_params(colors=QUIET, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _roof(axes: "Axes", of: Explanation) -> None:
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    for name, peak in _distinct(of):
        used = peak == of.peak_flops
        colour, width, style = (INK, 2.2, "-") if used else (FAINT, 1.4, (0, (5, 3)))
        axes.plot([peak / of.bandwidth, right], [peak, peak], color=colour, linewidth=width, linestyle=style, zorder=2)
        axes.annotate(
            f"{name}  {peak / 1e12:,.0f} TFLOP/s",
            (right, peak),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=INK if used else QUIET,
            fontweight="bold" if used else "normal",
        )
    highest = of.ceilings[-1][1]
    axes.plot([of.ridge, highest / of.bandwidth], [of.peak_flops, highest], color=FAINT, linewidth=1.4, zorder=1.5)
    axes.plot([left, of.ridge], [left * of.bandwidth, of.peak_flops], color=INK, linewidth=2.2, zorder=2)
    axes.plot([of.ridge, of.ridge], [bottom, of.peak_flops], color=QUIET, linewidth=1, linestyle=":", zorder=1)


def _distinct(of: Explanation) -> list[tuple[str, float]]:
    """Units of one height share a line; those that these weights use are named first."""
    names: dict[float, list[str]] = {}
    for name, peak in sorted(of.ceilings, key=lambda one: (one[1], one[0] != of.units)):
        names.setdefault(peak, []).append(name)
    return [(", ".join(same), peak) for peak, same in names.items()]


def _points(axes: "Axes", points: Sequence[Point]) -> None:
    for point in points:
        colour, marker = (BLUE, "o") if point.sequences else (VERMILLION, "D")
        height = point.work.flops / point.seconds.value
        low, high = point.work.flops / point.seconds.high_90, point.work.flops / point.seconds.low_90
        axes.errorbar(
            [point.work.intensity],
            [height],
            yerr=[[height - low], [high - height]],
            fmt=marker,
            markersize=8.5,
            color=colour,
            markerfacecolor=colour if point.fits else "white",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            ecolor=colour,
            elinewidth=1.4,
            capsize=3.5,
            zorder=4,
        )


def _labels(axes: "Axes", of: Explanation, renderer: Any) -> list[Box]:
    """Says what each point is; returns where words stand, in points."""
    scale = 72 / axes.figure.dpi
    _slope_label(axes, of)
    _ridge_label(axes, of)
    words = [_text_box(text, renderer, scale) for text in axes.texts]
    places = [(point.work.intensity, point.work.flops / point.seconds.value) for point in of.points]
    labelled = []
    for point, place in zip(of.points, places, strict=True):
        sample = _label(axes, of, point, place, (1.0, 1.0))
        left, bottom, right, top = _text_box(sample, renderer, scale)
        sample.remove()
        x, y = (float(pixels) * scale for pixels in axes.transData.transform(place))
        labelled.append(Labelled((x, y), (right - left, top - bottom)))
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines]
    lines = [_segment(axes, points, scale) for points in drawn if len(points) == 2]
    offsets = places_of(labelled, Picture(_box(axes.get_window_extent(renderer), scale), words, lines))
    for point, place, offset in zip(of.points, places, offsets, strict=True):
        words.append(_text_box(_label(axes, of, point, place, offset), renderer, scale))
    return words


def _label(axes: "Axes", of: Explanation, point: Point, place: tuple[float, float], offset: tuple[float, float]) -> Any:
    right, up = offset
    colour = BLUE if point.sequences else VERMILLION
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.55, "shrinkA": 2, "shrinkB": 7}
    return axes.annotate(
        _said(of, point),
        place,
        xytext=offset,
        textcoords="offset points",
        ha="left" if right > 0 else "right",
        va="top" if up < 0 else "bottom",
        color=colour,
        fontsize=8.8,
        linespacing=1.35,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        arrowprops=leader | {"relpos": (0.0 if right > 0 else 1.0, 1.0 if up < 0 else 0.0)},
        zorder=5,
    )


def _slope_label(axes: "Axes", of: Explanation) -> None:
    left, _ = axes.get_xlim()
    middle = left * (of.ridge / left) ** 0.42
    (x0, y0), (x1, y1) = axes.transData.transform([(x, x * of.bandwidth) for x in (left, of.ridge)])
    axes.annotate(
        f"memory  {of.bandwidth / 1e12:.2f} TB/s",
        (middle, middle * of.bandwidth),
        xytext=(-4, 5),
        textcoords="offset points",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        color=INK,
        fontweight="bold",
        ha="center",
        va="bottom",
    )


def _ridge_label(axes: "Axes", of: Explanation) -> None:
    bottom, _ = axes.get_ylim()
    sides = ((-6, "right", "bound by memory \N{LEFTWARDS ARROW}"), (6, "left", "\N{RIGHTWARDS ARROW} by arithmetic"))
    for right, side, said in sides:
        axes.annotate(
            said if side == "right" else f"{said}\nridge: {of.ridge:.0f} FLOP/byte",
            (of.ridge, bottom),
            xytext=(right, 6),
            textcoords="offset points",
            color=QUIET,
            fontsize=8.8,
            ha=side,
            va="bottom",
        )


def _said(of: Explanation, point: Point) -> str:
    roof = min(point.work.intensity * of.bandwidth, of.peak_flops)
    share = point.work.flops / point.seconds.value / roof
    ms = point.seconds.value * 1e3
    took = f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"
    figures = f"{took} ms, {point.tokens_per_s.value:,.0f} tokens/s"
    return f"{point.name}\n{figures}\n{share:.0%} of the roof" + ("" if point.fits else ", does not fit in the cache")


def _text_box(text: Any, renderer: Any, scale: float) -> Box:
    """Of the words alone: an annotation's own extent has its leader in it."""
    from matplotlib.text import Annotation, Text

    if isinstance(text, Annotation):
        text.update_positions(renderer)
    return _box(Text.get_window_extent(text, renderer), scale)


def _box(extent: Any, scale: float) -> Box:
    return extent.x0 * scale, extent.y0 * scale, extent.x1 * scale, extent.y1 * scale


def _segment(axes: "Axes", ends: Any, scale: float) -> Line:
    (x0, y0), (x1, y1) = axes.transData.transform(ends) * scale
    return float(x0), float(y0), float(x1), float(y1)
