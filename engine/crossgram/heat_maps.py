"""Heat maps of a comparison, one per measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.comparison import MEASURES, Comparison
from crossgram.figures import figure_file

__all__ = ["write_heat_maps"]

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
    with figure_file(Path(path), (columns * side, rows * side), overwrite=overwrite) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (measure, values) in zip(panels, known.items(), strict=False):
            _draw(panel, measure, values, names)
        for panel in panels[len(known) :]:
            panel.set_axis_off()


def _draw(panel: Any, measure: str, values: NDArray[np.float64], names: list[str]) -> None:
    is_distance = measure == "procrustes"
    top = 2.0 if is_distance else 1.0
    panel.imshow(values, cmap="cividis_r" if is_distance else "cividis", vmin=0, vmax=top)
    ticks = range(len(names))
    panel.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    panel.set_yticks(ticks, names)
    panel.set_title(MEASURES[measure])
    if measure in _ORDERED:
        panel.set_xlabel("target")
        panel.set_ylabel("source")
    for (i, j), value in np.ndenumerate(values):
        brightness = 1 - value / top if is_distance else value
        colour = "black" if brightness > _PALE else "white"
        panel.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
