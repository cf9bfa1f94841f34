"""Plots for managers, as the bytes of SVG or PNG files. No pyplot: each figure is its own, and any thread may draw.

Colours stand out on white and on black. In SVG the ink follows the page, from dark grey on light to light grey on dark.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from annotation.dashboard import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = {"svg": "image/svg+xml", "png": "image/png"}
INK = "#7a7f87"
INK_OF_PAGE = "light-dark(#4a505c, #b9bfca)"
BLUE, ORANGE, GREEN = "#4a80d4", "#d07418", "#3b9468"
SIZE = (7.2, 2.8)  # inches, of 100 pixels each
MOST_BARS = 30
LONGEST_NAME = 28
_DRAWING = threading.Lock()

Words = Mapping[str, str]


def judgments_per_day(figures: Figures, words: Words) -> Callable[[Axes], None]:
    """Bars of how many rankings came in on each day."""

    def draw(axes: Axes) -> None:
        days = [_day(date.fromisoformat(day)) for day, _ in figures.per_day]
        axes.bar(days, [count for _, count in figures.per_day], color=BLUE, width=0.8)
        _dates(axes, days)
        _whole_numbers(axes)
        axes.set_ylabel(words["plot.judgments"])

    return draw


def agreement_over_time(figures: Figures, words: Words) -> Callable[[Axes], None]:
    """Agreement on the items completed on each day, with its interval, and the band of what people reach."""

    def draw(axes: Axes) -> None:
        points = [(at, each) for at, each in figures.agreement_over_time if each.value is not None]
        days = [_day(date.fromtimestamp(at)) for at, _ in points]
        values = [100 * (each.value or 0) for _, each in points]
        low = [value - 100 * (each.low or 0) for value, (_, each) in zip(values, points, strict=True)]
        high = [100 * (each.high or 0) - value for value, (_, each) in zip(values, points, strict=True)]
        usual = [100 * share for share in figures.agreement.usual]
        axes.axhspan(*usual, color=GREEN, alpha=0.22, linewidth=0, label=words["plot.usual"])
        spread = [[max(0.0, each) for each in side] for side in (low, high)]
        axes.errorbar(days, values, yerr=spread, color=BLUE, marker="o", markersize=4, linewidth=1.5, capsize=2)
        _dates(axes, days)
        axes.set_ylim(0, 105)
        axes.set_ylabel(words["plot.agreement"])
        axes.legend(loc="lower right", frameon=False, labelcolor=INK)

    return draw


def ratings(figures: Figures, words: Words) -> Callable[[Axes], None]:
    """Points of each policy with their intervals, the best on top."""

    def draw(axes: Axes) -> None:
        rated = () if figures.ratings is None else figures.ratings.ratings[:MOST_BARS]
        places = range(len(rated))
        points = [each.points for each in rated]
        # an interval from resampling need not hold the value itself
        spread = [
            [max(0.0, each.points - each.low) for each in rated],
            [max(0.0, each.high - each.points) for each in rated],
        ]
        axes.errorbar(points, places, xerr=spread, fmt="o", color=BLUE, capsize=3, markersize=5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(places, [_short(each.policy) for each in rated])
        axes.set_ylim(max(len(rated), 1) - 0.5, -0.5)
        axes.set_xlabel(words["plot.points"])

    return draw


def suspicion(figures: Figures, words: Words) -> Callable[[Axes], None]:
    """Bars of how likely each annotator does not read, the most suspicious on top."""

    def draw(axes: Axes) -> None:
        shown = [each for each in figures.workers if each.suspicion is not None][:MOST_BARS]
        places = range(len(shown))
        values = [100 * (each.suspicion or 0) for each in shown]
        axes.barh(places, values, color=[ORANGE if value >= 50 else BLUE for value in values])
        axes.set_yticks(places, [_short(each.name or each.annotator) for each in shown])
        axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel(words["plot.suspicion_axis"])

    return draw


PLOTS: dict[str, Callable[[Figures, Words], Callable[[Any], None]]] = {
    "judgments_per_day": judgments_per_day,
    "agreement_over_time": agreement_over_time,
    "ratings": ratings,
    "suspicion": suspicion,
}


def draw_plot(name: str, figures: Figures, words: Words, *, form: str = "svg") -> bytes:
    """One of `PLOTS` as a file.

    Args:
        name: which one.
        figures: of the campaign.
        words: what the axes say, by key.
        form: "svg" or "png".

    Raises:
        KeyError: there is no such plot or form.
    """
    kind = {"svg": "svg", "png": "png"}[form]
    draw = PLOTS[name](figures, words)
    # imported here: it takes a second, and most processes draw nothing
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {"ratings": len(figures.ratings.ratings) if figures.ratings else 0, "suspicion": len(figures.workers)}
    height = max(1.6, 0.9 + 0.32 * min(rows[name], MOST_BARS)) if name in rows else SIZE[1]
    # names with a dollar sign are no formulas, and the same figures give the same file
    settings = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "rlhf", "font.size": 9.5}
    # one at a time: settings are the whole process's
    with _DRAWING, rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(SIZE[0], height), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        draw(axes)
        _plain(axes)
        content = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(content, format=kind, transparent=True, metadata=metadata, dpi=100 if kind == "svg" else 200)
    if kind == "png":
        return content.getvalue()
    drawn = content.getvalue().decode().replace(INK, INK_OF_PAGE)
    return drawn.replace("<svg ", '<svg style="color-scheme: light dark; font-family: sans-serif" ', 1).encode()


def _plain(axes: Axes) -> None:
    """Ink that is seen on any page, and no box around."""
    axes.set_facecolor("none")
    axes.tick_params(colors=INK)
    for name, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    axes.grid(axis="both", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _day(day: date) -> float:
    """A day as the number that an axis of dates has for it."""
    from matplotlib.dates import date2num

    return float(date2num(day))


def _dates(axes: Axes, days: Sequence[float]) -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    if len(set(days)) < 3:
        axes.set_xticks(sorted(set(days)))
    else:
        axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=7))
    axes.xaxis.set_major_formatter(DateFormatter("%Y-%m-%d"))


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
