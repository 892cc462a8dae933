"""Figures of the report, as SVG text: deterministic bytes, no dates, in the page's own colours for
ink and lines, so that they are readable on light and dark pages and in print.

Series have the colours of Okabe and Ito, which the colour-blind tell apart, and differ in their
markers or hatches too.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

# The page's own colours take the place of these.
TEXT, INK, LINE = "#20252b", "#6b7280", "#c8cdd4"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")

Interval = dict[str, Any]  # mean, low, high and, of a difference, detectable


HATCHES = ("", "//", "..", "xx", "--")


def colour(index: int) -> str:
    """Return the colour of a series."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Return the marker of a series: another one where colours begin anew."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _figure(width: float, height: float, polar: bool = False) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "openbezoar",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "text.color": INK,
            "axes.edgecolor": LINE,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": LINE,
            "grid.linewidth": 0.5,
            "legend.frameon": False,
        }
    )
    figure, axes = plt.subplots(
        figsize=(width, height), subplot_kw={"projection": "polar"} if polar else None
    )
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    for colour, name in ((TEXT, "ink"), (INK, "muted"), (LINE, "line")):
        text = text.replace(colour, f"var(--{name})")
    return text[text.index("<svg") :]


def _legend(axes: Any, columns: int = 3) -> None:
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1.0))


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str,
    xlabel: str = "optimiser steps",
    bottom: float | None = None,
) -> str:
    """Return a line plot; `series` is name -> (places, values)."""
    figure, axes = _figure(4.6, 2.5)
    for index, (name, (places, values)) in enumerate(series.items()):
        axes.plot(
            places,
            values,
            label=name,
            color=colour(index),
            linewidth=1.4,
            marker=marker(index) if len(values) < 12 else None,
            markersize=3.5,
        )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=bottom)
    axes.grid(axis="y")
    _legend(axes)
    return _svg(figure)


def bars(groups: Sequence[str], series: dict[str, Sequence[Interval | None]], ylabel: str) -> str:
    """Return grouped bars with intervals; `series` is name -> a value per group, or None."""
    figure, axes = _figure(max(4.6, 0.95 * len(groups)), 2.8)
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        known = [(group, v) for group, v in enumerate(values) if v and v["mean"] is not None]
        places = [group + (index - (len(series) - 1) / 2) * width for group, _ in known]
        means = [value["mean"] for _, value in known]
        errors = [
            [value["mean"] - value["low"] for _, value in known],
            [value["high"] - value["mean"] for _, value in known],
        ]
        hatch = HATCHES[index // len(COLOURS) % len(HATCHES)]
        axes.bar(places, means, width * 0.9, label=name, color=colour(index), hatch=hatch)
        axes.errorbar(places, means, errors, fmt="none", ecolor=INK, elinewidth=0.7)
    axes.set_xticks(range(len(groups)), groups, rotation=20 if len(groups) > 4 else 0)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    _legend(axes)
    return _svg(figure)


def shares(names: Sequence[str], series: Mapping[str, Sequence[int]], xlabel: str) -> str:
    """Return a bar for each name, divided in proportion to its counts; `series` is part -> a count
    per name. The counts stand in the parts that are wide enough.
    """
    figure, axes = _figure(5.6, 0.9 + 0.42 * len(names))
    totals = [sum(values) or 1 for values in zip(*series.values(), strict=True)]
    starts = [0.0] * len(names)
    for index, (part, counts) in enumerate(series.items()):
        widths = [100 * count / total for count, total in zip(counts, totals, strict=True)]
        axes.barh(
            range(len(names)),
            widths,
            0.66,
            left=starts,
            label=part,
            color=colour(index),
            hatch=HATCHES[index % len(HATCHES)],
            edgecolor="#ffffff",
            linewidth=0.4,
        )
        for place, (start, width, count) in enumerate(zip(starts, widths, counts, strict=True)):
            if width > 8:
                axes.text(
                    start + width / 2, place - 0.36, f"{count:,}", ha="center", va="bottom", size=7
                )
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.set_xlabel(xlabel)
    _legend(axes, 5)
    return _svg(figure)


def intervals(names: Sequence[str], values: Sequence[Interval | None], label: str) -> str:
    """Return a point with its interval for each name."""
    return _forest(names, values, label, 3.4, difference=False)


def differences(names: Sequence[str], values: Sequence[Interval | None], label: str) -> str:
    """Return a forest plot of paired differences about zero. An interval that contains zero is
    hollow; grey bars reach as far as the smallest difference that the design could have seen.
    """
    return _forest(names, values, label, 4.6, difference=True)


def _forest(
    names: Sequence[str],
    values: Sequence[Interval | None],
    label: str,
    width: float,
    difference: bool,
) -> str:
    figure, axes = _figure(width, 0.7 + 0.3 * len(names))
    for place, value in enumerate(values):
        if value and value["mean"] is not None:
            mean, low, high = value["mean"], value["low"], value["high"]
            if difference and value.get("detectable") is not None:
                reach = value["detectable"]
                axes.barh(place, 2 * reach, 0.5, left=-reach, color=LINE, alpha=0.6)
            hollow = difference and low <= 0 <= high
            axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)
            axes.plot(
                [mean],
                [place],
                "o",
                color=COLOURS[0],
                markersize=5,
                markerfacecolor="none" if hollow else COLOURS[0],
            )
    if difference:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    return _svg(figure)


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
) -> str:
    """Return a heat map: the deeper the colour, the nearer `values` (by row) to 1, with `texts`
    in the cells.
    """
    figure, axes = _figure(1.6 + 0.95 * len(columns), 0.7 + 0.36 * len(rows))
    for place, line in enumerate(values):
        for column, value in enumerate(line):
            depth = 0 if value is None else max(0.0, min(1.0, value))
            axes.barh(
                place, 0.94, 0.9, left=column - 0.47, color=COLOURS[0], alpha=0.06 + 0.5 * depth
            )
            text = texts[place][column]
            axes.text(column, place, text, ha="center", va="center", size=8, color=TEXT)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return _svg(figure)


def radar(spokes: Sequence[str], series: dict[str, Sequence[float]], limit: float) -> str:
    """Return a radar plot; `series` is name -> a value per spoke, from 0 to `limit`."""
    import math

    figure, axes = _figure(3.6, 3.6, polar=True)
    angles = [2 * math.pi * k / len(spokes) for k in range(len(spokes))]
    for index, (name, values) in enumerate(series.items()):
        axes.plot(
            [*angles, angles[0]],
            [*values, values[0]],
            label=name,
            color=colour(index),
            linewidth=1.4,
            marker=marker(index),
            markersize=3,
        )
    axes.set_xticks(angles, spokes)
    axes.set_ylim(0, limit)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.25, 1.05), ncols=2)
    return _svg(figure)
