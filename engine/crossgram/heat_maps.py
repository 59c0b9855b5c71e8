"""Heat maps of a comparison, one per measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.comparison import MEASURES, Comparison
from crossgram.figures import figure_file

__all__ = ["DISTANCES", "draw_cells", "limits_of", "write_heat_maps"]

DISTANCES = ("procrustes",)
"""Measures that are small where spaces are alike."""

_ORDERED = ("r2", "cycle_r2", "pwcca")
_COLUMNS = 4
_CELL_INCHES, _MARGIN_INCHES = 0.5, 1.7
_PALE = 0.55
"""Above this share of the scale, cividis is pale enough for black figures."""


def write_heat_maps(comparison: Comparison, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw a heat map of every measure, sources down and targets across, with its values.

    Parameters
    ----------
    comparison : Comparison
        What `compare` returned.
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
    names = [space.name for space in comparison.spaces]
    known = {name: comparison.matrix(name) for name in MEASURES}
    known = {name: values for name, values in known.items() if not np.isnan(values).any()}
    columns = min(_COLUMNS, len(known))
    rows = -(-len(known) // columns)
    side = _MARGIN_INCHES + _CELL_INCHES * len(names)
    with figure_file(path, (columns * side, rows * side), overwrite=overwrite) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (measure, values) in zip(panels, known.items(), strict=False):
            draw_cells(
                panel,
                values,
                names,
                "{:.2f}".format,
                limits=limits_of(measure),
                is_distance=measure in DISTANCES,
            )
            panel.set_title(MEASURES[measure])
            if measure in _ORDERED:
                panel.set_xlabel("target")
                panel.set_ylabel("source")
        for panel in panels[len(known) :]:
            panel.set_axis_off()


def limits_of(measure: str) -> tuple[float, float]:
    """Return the least and the largest value that a measure may have, for colours."""
    return 0.0, 2.0 if measure in DISTANCES else 1.0


def draw_cells(
    panel: Any,
    values: NDArray[np.float64],
    names: Sequence[str],
    text: Callable[[float], str],
    *,
    limits: tuple[float, float],
    is_distance: bool,
    across: Sequence[str] | None = None,
) -> None:
    """Draw a value for every source, downwards, and target, across; none where it is NaN.

    Parameters
    ----------
    panel : matplotlib axes
        Where.
    values : ndarray, shape (K, K)
        By source and target.
    names : sequence of str
        Of the spaces.
    text : callable
        What to write into the cell of a value.
    limits : (float, float)
        The values of the ends of the colours.
    is_distance : bool
        Whether small values are the good ones, which are pale.
    across : sequence of str, optional
        What targets are called, upright, if in another way.
    """
    low, high = limits
    panel.pcolormesh(
        np.ma.masked_invalid(values),
        cmap="cividis_r" if is_distance else "cividis",
        vmin=low,
        vmax=high,
    )
    panel.invert_yaxis()
    panel.set_aspect("equal")
    centres = np.arange(len(names)) + 0.5
    if across is None:
        panel.set_xticks(centres, names, rotation=45, ha="right", rotation_mode="anchor")
    else:
        panel.set_xticks(centres, across)
    panel.set_yticks(centres, names)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            share = (value - low) / (high - low)
            colour = "black" if (1 - share if is_distance else share) > _PALE else "white"
            looks = {"ha": "center", "va": "center", "color": colour, "fontsize": 8}
            panel.text(centres[j], centres[i], text(value), **looks)
