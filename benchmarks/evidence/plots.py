"""Plots of the evidence as SVG files for the docs: white ground, text as text, equal data give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): colour-blind readers tell them apart; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v")
INK, FAINT = "#333333", "#bbbbbb"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Points:
    """Points of one group: x, y, and the half lengths down and up of y's bars."""

    x: Sequence[float]
    y: Sequence[float]
    down: Sequence[float] | None = None
    up: Sequence[float] | None = None
    hollow: bool = False  # figures of others


def scatter(path: Path, groups: Mapping[str, Points], *, x_label: str, y_label: str) -> Path:
    """Points by group, with bars where there are any."""
    with _drawing(path, height=3.2) as (axes,):
        for index, (name, points) in enumerate(groups.items()):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            bars = None if points.down is None or points.up is None else [list(points.down), list(points.up)]
            axes.errorbar(
                points.x,
                points.y,
                bars,
                label=name,
                fmt=marker,
                color=colour,
                markersize=4.5,
                elinewidth=0.8,
                markerfacecolor="white" if points.hollow else colour,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(fontsize=8)
    return path


Line = tuple[Sequence[float], Sequence[float]]


def curves(path: Path, panels: Mapping[str, Mapping[str, Sequence[Line]]], *, x_label: str) -> Path:
    """Panels side by side, with curves by group: label of y -> group -> [(x, y), ...], a group in one colour."""
    with _drawing(path, height=2.9, num_panels=len(panels)) as all_axes:
        for axes, (label, groups) in zip(all_axes, panels.items(), strict=True):
            for index, (name, lines) in enumerate(groups.items()):
                for number, (x, y) in enumerate(lines):
                    axes.plot(
                        x,
                        y,
                        color=COLOURS[index % len(COLOURS)],
                        linewidth=1.3,
                        linestyle=("-", "--", "-.")[index % 3],
                        label=name if number == 0 else None,
                    )
            axes.set_xlabel(x_label)
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
    return path


def intervals(path: Path, groups: Mapping[str, Sequence[tuple[str, float, float, float]]], *, x_label: str) -> Path:
    """Estimates with intervals, rows by name and colours by group; group -> [(row, value, low, high), ...]."""
    rows = list(dict.fromkeys(row for estimates in groups.values() for row, *_ in estimates))
    with _drawing(path, height=0.9 + 0.55 * len(rows)) as (axes,):
        axes.axvline(0.5, color=FAINT, linewidth=1)
        for index, (name, estimates) in enumerate(groups.items()):
            y = [rows.index(row) + (index - (len(groups) - 1) / 2) * 0.17 for row, *_ in estimates]
            values = [value for _, value, _, _ in estimates]
            bars = [[value - low for _, value, low, _ in estimates], [high - value for _, value, _, high in estimates]]
            axes.errorbar(
                values,
                y,
                xerr=bars,
                label=name,
                fmt=MARKERS[index],
                color=COLOURS[index],
                markersize=4,
                elinewidth=1,
            )
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return path


@contextmanager
def _drawing(path: Path, height: float, num_panels: int = 1) -> Iterator[list[Axes]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.0 if num_panels == 1 else 8.5, height), layout="constrained", facecolor="white")
        yield [figure.add_subplot(1, num_panels, number + 1) for number in range(num_panels)]
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
