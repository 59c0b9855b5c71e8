"""A learning curve and its curve of ranks, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossgram.curves import METHODS, CurvePoint, LearningCurve
from crossgram.figures import figure_file

__all__ = ["write_curve_plot"]

_PANEL_INCHES = 4.4, 3.4
_LOWEST_R2 = -0.2
"""Plain least squares falls far below near as many pairs as columns, and would flatten the rest."""

# three of the colours of Okabe and Ito, which colour-blind people tell apart, and shapes besides
_LOOKS = {
    "lstsq": {"color": "#D55E00", "marker": "x", "linestyle": ":"},
    "ridge": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "procrustes": {"color": "#009E73", "marker": "s", "linestyle": "--"},
    "reduced-rank": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
}


def write_curve_plot(curve: LearningCurve, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw R², and recognition where there is any, against the pairs and against the rank.

    Parameters
    ----------
    curve : LearningCurve
        What `learning_curve` returned.
    path : path
        A file that ends in .svg, .png or .pdf.
    overwrite : bool
        Whether to replace a file that exists.

    Raises
    ------
    InputError
        If matplotlib is missing, the ending is unknown, or `path` is there and not to be
        overwritten.
    """
    measures = {
        "r2": ("R2 on held-out rows", None),
        "auc": ("AUC", curve.native_auc),
        "tar": (f"TAR at FAR {curve.far:g}", curve.native_tar),
    }
    ranks = [point.rank for point in curve.ranks]
    known = [m for m in measures if any(getattr(point, m) is not None for point in curve.points)]
    width, height = _PANEL_INCHES
    size = width * len(known), 2 * height
    with figure_file(path, size, overwrite=overwrite) as figure:
        figure.suptitle(f"{curve.source.name} to {curve.target.name}")
        panels = figure.subplots(2, len(known), squeeze=False)
        for (above, below), measure in zip(panels.T, known, strict=True):
            title, native = measures[measure]
            for method, name in METHODS.items():
                own = [point for point in curve.points if point.method == method]
                _draw(above, own, "rows", measure, name)
            _draw(below, curve.ranks, "rank", measure, "reduced rank")
            above.axvline(curve.source.dim + 1, color="0.7", linewidth=1, zorder=0)
            above.set_xlabel("pairs (grey line: coefficients per output)")
            above.set_xscale("log")
            below.set_xlabel("rank")
            below.set_xscale("log")
            below.set_xticks(ranks, ranks)
            below.minorticks_off()
            for panel in (above, below):
                _finish(panel, title, native)


def _draw(panel: Any, points: Sequence[CurvePoint], across: str, measure: str, name: str) -> None:
    drawn = [point for point in points if getattr(point, measure) is not None]
    panel.plot(
        [getattr(point, across) for point in drawn],
        [getattr(point, measure) for point in drawn],
        label=name,
        **_LOOKS[points[0].method],
    )


def _finish(panel: Any, title: str, native: float | None) -> None:
    if native is not None:
        panel.axhline(native, color="black", linewidth=1, linestyle="-.", label="target itself")
    bottom, top = panel.get_ylim()
    if bottom < _LOWEST_R2:
        panel.set_ylim(_LOWEST_R2, max(top, 0.0))
        title += f" (below {_LOWEST_R2:g} cut off)"
    panel.set_ylabel(title)
    panel.legend()
