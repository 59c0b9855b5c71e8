"""Plots of what programs measured, drawn from the data that they kept."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from crossgram.figures import LINES, figure_file, plain_logarithms

__all__ = ["draw", "has_plot", "kind_of"]

_WIDTH = 7.0
_MARKERS = "os^Dv"
_COLOURS = (*LINES, "#999999")


def draw(name: str, data: Any, path: Path) -> None:
    """Draw the plot of a section; the same data give the same bytes."""
    height, paint = PLOTS[kind_of(name, PLOTS)]
    with figure_file(path, (_WIDTH, height(data)), overwrite=True) as figure:
        panel = figure.add_subplot()
        panel.spines[["top", "right"]].set_visible(False)
        paint(panel, data)


def _errors(panel: Any, data: Mapping[str, Any]) -> None:
    """Draw the error of each way to a map against the condition number."""
    for k, (name, errors) in enumerate(data["errors"].items()):
        # a logarithmic axis leaves out errors of 0
        panel.loglog(data["condition"], errors, f"{_MARKERS[k]}-", color=_COLOURS[k], label=name)
    panel.set(xlabel="condition number", ylabel="error of M")
    for axis in (panel.xaxis, panel.yaxis):
        plain_logarithms(axis)
    panel.grid(visible=True, linewidth=0.4)
    panel.legend(frameon=False)


def _shares(panel: Any, data: list[Mapping[str, Any]]) -> None:
    """Draw the share of its ceiling that each benchmark reaches, a colour for each group."""
    groups = list(dict.fromkeys(own["group"] for own in data))
    for group in groups:
        places = [k for k, own in enumerate(data) if own["group"] == group]
        shares = [100 * data[k]["share"] for k in places]
        bars = panel.barh(places, shares, color=_COLOURS[groups.index(group)], label=group)
        panel.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    panel.axvline(100, color="black", linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(data)), [own["name"] for own in data], fontsize=7)
    panel.set(xlabel="percent of the ceiling", ylim=(len(data) - 0.5, -0.5))
    panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _height_of_bars(data: list[Mapping[str, Any]]) -> float:
    return 0.8 + 0.17 * len(data)


def _scaling(panel: Any, data: Mapping[str, Any]) -> None:
    """Draw the time of a pass against each quantity, both over those of the first point."""
    for k, (name, sweep) in enumerate(data["sweeps"].items()):
        values, seconds = sweep["values"], sweep["medians"]["accumulate"]
        panel.loglog(
            [own / values[0] for own in values],
            [own / seconds[0] for own in seconds],
            f"{_MARKERS[k]}-",
            color=_COLOURS[k],
            label=f"{name}, from {values[0]:,}",
        )
    panel.set(xlabel="times the first", ylabel="times the seconds")
    for axis in (panel.xaxis, panel.yaxis):
        plain_logarithms(axis)
    panel.grid(visible=True, linewidth=0.4)
    panel.legend(frameon=False)


def _seconds(panel: Any, data: Mapping[str, Any]) -> None:
    """Draw the seconds of each way to the map."""
    peers = data["peers"]
    found = {name: own["median_seconds"] for name, own in peers.items() if "failed" not in own}
    names = sorted(found, key=lambda name: found[name])
    colours = [_COLOURS[0 if name.startswith("crossgram") else -1] for name in names]
    bars = panel.barh(range(len(names)), [found[name] for name in names], color=colours)
    panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    panel.set(xlabel="seconds", ylim=(len(names) - 0.5, -0.5))


PLOTS: Mapping[str, tuple[Callable[[Any], float], Callable[[Any, Any], None]]] = {
    "conditions": (lambda data: 4.0, _errors),
    "scaling": (lambda data: 4.0, _scaling),
    "side-by-side": (lambda data: 0.8 + 0.2 * len(data["peers"]), _seconds),
    "suite": (_height_of_bars, _shares),
    "suite-full": (_height_of_bars, _shares),
}
"""Of the sections that have one, or all whose names go on after it: its height in inches, and what
draws it on a panel."""


def has_plot(name: str) -> bool:
    """Tell whether a section has a plot."""
    return kind_of(name, PLOTS) in PLOTS


def kind_of(name: str, kinds: Container[str]) -> str:
    """Return which of the kinds a section is of: itself, or what its name goes on after."""
    return name if name in kinds else name.rpartition("-")[0]
