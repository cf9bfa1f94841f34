"""Plots as inline SVG for reports: curves, distributions before and after, and estimates with intervals.

Each function returns an HTML `<figure>`. Colours are CSS variables of the report, so that one drawing suits a
light and a dark page; they are Okabe and Ito's (2008), which colour-blind readers tell apart, and lines
differ in dash too. Equal data give equal bytes. matplotlib is imported at the first plot.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.evaluation.metrics import Estimate
from rlhf.evaluation.page import plain, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each colour stands in the drawing for a CSS variable, which matplotlib cannot write.
INK, FAINT, HOLLOW = "#010203", "#010204", "#010205"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215")
VARIABLES = {INK: "--ink", FAINT: "--line", HOLLOW: "--page"} | {
    colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)
}
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (1, 1)))
LABEL_LENGTH, AXIS_LABEL_LENGTH = 26, 60  # characters; longer names lose their middle
MOST_MARKED = 12  # points of a curve up to which each one is marked

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf",
    "text.parse_math": False,
    "text.color": INK,
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}

Curve = tuple[Sequence[float], Sequence[float]]


def line_plot(
    curves: Mapping[str, Curve],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    reference: float | None = None,
) -> str:
    """Curves over a common x axis. `curves`: name -> (x, y) of equal length; nan leaves a gap.

    `reference` draws a thin horizontal line, e.g. at a KL target or at an accuracy of 0.5.
    """
    _check_series(curves)
    for name, (x, y) in curves.items():
        if len(x) != len(y):
            raise ValueError(f"curve {name!r} has {len(x)} x and {len(y)} y values; give as many of each")
    with _drawing(height=2.7) as (figure, axes):
        if reference is not None:
            axes.axhline(reference, color=FAINT, linewidth=1)
        for index, (name, (x, y)) in enumerate(curves.items()):
            marker = "o" if len(x) <= MOST_MARKED else None
            axes.plot(x, y, marker=marker, markersize=3, label=_label(name), **_line_style(index))
        axes.set_xlabel(_label(x_label, AXIS_LABEL_LENGTH))
        axes.set_ylabel(_label(y_label))
        if all(float(value).is_integer() for x, _ in curves.values() for value in x):
            axes.locator_params(axis="x", integer=True)
        _legend(figure, len(curves))
        return _figure_html(figure, caption)


def reliability_plot(series: Mapping[str, Sequence[tuple[float, Estimate]]], *, x_label: str, caption: str) -> str:
    """Accuracy over what was claimed, with a diagonal where the two are one. `series`: name -> (claimed, accuracy)."""
    _check_series(series)
    with _drawing(height=2.9) as (figure, axes):
        least = min(claimed for points in series.values() for claimed, _ in points)
        axes.plot([least, 1], [least, 1], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for index, (name, points) in enumerate(series.items()):
            claimed, style = [x for x, _ in points], _line_style(index)
            axes.vlines(
                claimed, [y.low for _, y in points], [y.high for _, y in points], color=style["color"], alpha=0.35
            )
            values = [y.value for _, y in points]
            axes.plot(claimed, values, marker="o", markersize=3, label=_label(name), **style)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(_label(x_label, AXIS_LABEL_LENGTH))
        axes.set_ylabel("accuracy")
        _legend(figure, len(series))
        return _figure_html(figure, caption)


def distribution_plot(
    groups: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    caption: str,
    num_bins: int = 20,
    y_label: str = "share of responses",
) -> str:
    """Histograms of up to five groups over common bins, e.g. scores before and after training.

    Heights are shares of the group, so that groups of different size compare; a triangle marks each mean.
    Values that are not finite are left out of the drawing and counted in the legend.
    """
    _check_series(groups)
    measured = {name: np.asarray(values, dtype=float) for name, values in groups.items()}
    finite = {name: values[np.isfinite(values)] for name, values in measured.items()}
    for name, values in finite.items():
        if not values.size:
            raise ValueError(f"group {name!r} has no finite value to draw; leave the group out")
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins=num_bins)
    shares = {name: np.histogram(values, edges)[0] / values.size for name, values in finite.items()}
    top = max(float(heights.max()) for heights in shares.values())
    with _drawing(height=2.7) as (figure, axes):
        for index, (name, values) in enumerate(finite.items()):
            num_left_out = measured[name].size - values.size
            label = f"{_label(name)}, mean {_short(float(values.mean()))}"
            label += f" ({num_left_out} not finite)" if num_left_out else ""
            style = _line_style(index)
            axes.stairs(shares[name], edges, fill=True, color=style["color"], alpha=0.18)
            axes.stairs(shares[name], edges, baseline=None, label=label, **style)
            axes.plot([values.mean()], [top * 1.07], marker="v", color=style["color"], linestyle="none")
        axes.set_ylim(0, top * 1.15)
        axes.set_xlabel(_label(x_label, AXIS_LABEL_LENGTH))
        axes.set_ylabel(y_label)
        _legend(figure, len(groups))
        return _figure_html(figure, caption)


def interval_plot(
    estimates: Mapping[str, Estimate],
    *,
    x_label: str,
    caption: str,
    centre: float | None = 0.5,
    x_range: tuple[float, float] | None = (0.0, 1.0),
) -> str:
    """Estimates with their intervals, one row each, top to bottom as given, with a line at `centre`.

    A row whose interval leaves out the centre is filled and otherwise hollow. `x_range=None` fits the axis to
    the data.
    """
    if not estimates:
        raise ValueError("estimates is empty; give at least one name with its Estimate")
    with _drawing(height=0.75 + 0.34 * len(estimates)) as (figure, axes):
        if centre is not None:
            axes.axvline(centre, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for row, estimate in enumerate(estimates.values()):
            _draw_interval(axes, row, estimate, centre)
        axes.set_yticks(range(len(estimates)), [_label(name) for name in estimates])
        axes.set_ylim(len(estimates) - 0.4, -0.6)
        if x_range is not None:
            axes.set_xlim(*x_range)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(_label(x_label, AXIS_LABEL_LENGTH))
        return _figure_html(figure, caption)


def _draw_interval(axes: Axes, row: int, estimate: Estimate, centre: float | None) -> None:
    """One row: the interval as a bar, the value as a dot on it, both as text right of the axes."""
    decided = centre is not None and (estimate.low > centre or estimate.high < centre)
    axes.plot([estimate.low, estimate.high], [row, row], color=SERIES[0], linewidth=2, solid_capstyle="butt")
    face = SERIES[0] if decided else HOLLOW
    (dot,) = axes.plot([estimate.value], [row], marker="o", color=SERIES[0], markerfacecolor=face, markeredgewidth=1.6)
    dot.set_clip_on(False)  # drawn whole at the end of the axis
    text = _short(estimate.value)
    if not math.isnan(estimate.low):
        text += f" [{_short(estimate.low)}, {_short(estimate.high)}]"
    axes.annotate(text, (1.04, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)


def _check_series(series: Mapping[str, object]) -> None:
    if not 1 <= len(series) <= len(SERIES):
        raise ValueError(f"{len(series)} series to draw; give 1 to {len(SERIES)}, or make several plots")


@contextmanager
def _drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty plot, 4.8 inches by `height`, and our settings until the end of the block.

    Small, since text must stay readable on a phone. Settings hold from the first artist to the written file:
    matplotlib reads some of them at each.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        yield figure, figure.add_subplot()


def _line_style(index: int) -> dict[str, Any]:
    return {"color": SERIES[index], "linestyle": DASHES[index], "linewidth": 1.8}


def _legend(figure: Figure, num_series: int) -> None:
    """Names above the plot; a single series is named by the caption and the axis."""
    if num_series > 1:
        figure.legend(loc="outside upper left", ncols=2, fontsize=8.5, handlelength=2.4)


def _label(text: str, length: int = LABEL_LENGTH) -> str:
    """The text on one line, without its middle when long: a name must not push the plot off the page."""
    text = " ".join(shown(text).split())
    if text.startswith("_"):  # which matplotlib leaves out of its legends
        text = f"\N{ZERO WIDTH SPACE}{text}"
    if len(text) <= length:
        return text
    kept = (length - 1) // 2
    return f"{text[:kept]}\N{HORIZONTAL ELLIPSIS}{text[-kept:]}"


def _short(number: float) -> str:
    return f"{number:.2f}" if abs(number) < 100 else f"{number:.3g}"


def _figure_html(figure: Figure, caption: str) -> str:
    """The figure as `<figure>` with inline SVG: no prolog, no metadata, colours replaced by CSS variables."""
    drawing = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(drawing, format="svg", transparent=True, metadata=nothing)
    svg = drawing.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The namespace is for SVG files; in HTML it is needless. Width and height come from the page.
    head = f'<svg role="img" aria-label="{plain(caption)}" viewBox="{_view_box(svg)}">'
    return f"<figure>\n{head}{svg[svg.index('>') + 1 :]}<figcaption>{plain(caption)}</figcaption>\n</figure>"


def _view_box(svg: str) -> str:
    found = re.search(r'viewBox="([-0-9. ]+)"', svg)
    assert found, "matplotlib writes a viewBox into every SVG"
    return found[1]
