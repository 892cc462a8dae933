"""Figures of the report, as SVG text: deterministic bytes, no dates, readable on light and dark
pages.
"""

import io
from collections.abc import Sequence
from typing import Any

INK, MUTED = "#6b7280", "#c8cdd4"
OKABE_ITO_BLUE = "#0072b2"
COLOURS = ("#9aa3ad", "#4f7cac", "#3a9188", "#c05f3c", "#7a5ea8")


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
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": MUTED,
            "grid.linewidth": 0.5,
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
    return text[text.index("<svg") :]


def curves(series: dict[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> str:
    """Return a line plot; `series` is name -> (steps, values)."""
    figure, axes = _figure(4.6, 2.5)
    for (name, (steps, values)), colour in zip(series.items(), COLOURS[1:], strict=False):
        axes.plot(
            steps,
            values,
            label=name,
            color=colour,
            linewidth=1.4,
            marker="o" if len(values) < 12 else None,
            markersize=2.5,
        )
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.legend(frameon=False)
    return _svg(figure)


def bars(
    groups: Sequence[str],
    series: dict[str, Sequence[tuple[float, float, float] | None]],
    ylabel: str,
) -> str:
    """Return grouped bars with intervals; `series` is name -> (mean, low, high) per group, None
    where there is none.
    """
    figure, axes = _figure(max(4.6, 0.95 * len(groups)), 2.8)
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        places = [
            group + (index - (len(series) - 1) / 2) * width
            for group, value in enumerate(values)
            if value
        ]
        known = [value for value in values if value]
        errors = [[mean - low for mean, low, _ in known], [high - mean for mean, _, high in known]]
        axes.bar(
            places,
            [mean for mean, _, _ in known],
            width * 0.9,
            label=name,
            color=COLOURS[index % len(COLOURS)],
        )
        axes.errorbar(
            places, [mean for mean, _, _ in known], errors, fmt="none", ecolor=INK, elinewidth=0.7
        )
    axes.set_xticks(range(len(groups)), groups, rotation=20 if len(groups) > 4 else 0)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return _svg(figure)


def intervals(names: Sequence[str], values: Sequence[dict[str, Any] | None], label: str) -> str:
    """Return a point with its interval for each name; a value has `mean`, `low` and `high`, or is
    none.
    """
    figure, axes = _figure(3.4, 0.7 + 0.3 * len(names))
    for place, value in enumerate(values):
        if value and value["mean"] is not None:
            mean, low, high = value["mean"], value["low"], value["high"]
            axes.plot([low, high], [place, place], color=OKABE_ITO_BLUE, linewidth=1.6)
            axes.plot([mean], [place], "o", color=OKABE_ITO_BLUE, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    return _svg(figure)


def radar(spokes: Sequence[str], series: dict[str, Sequence[float]], limit: float) -> str:
    """Return a radar plot; `series` is name -> a value per spoke, from 0 to `limit`."""
    import math

    figure, axes = _figure(3.6, 3.6, polar=True)
    angles = [2 * math.pi * k / len(spokes) for k in range(len(spokes))]
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(
            [*angles, angles[0]], [*values, values[0]], label=name, color=colour, linewidth=1.4
        )
    axes.set_xticks(angles, spokes)
    axes.set_ylim(0, limit)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.25, 1.05), ncols=2)
    return _svg(figure)
