"""Figures of matplotlib: whole or absent, and the same bytes of the same data."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossgram.errors import InputError
from crossgram.output import check_output, whole_file

__all__ = ["check_figure", "figure_file"]

_FORMATS = ("svg", "png", "pdf")


def check_figure(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a figure that could not be written to `path`.

    Raises
    ------
    InputError
        If matplotlib is missing, the ending is unknown, or `path` is there and not to be
        overwritten.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{path}: plots need matplotlib; pip install 'crossgram[report]'")
    if _format(path) not in _FORMATS:
        raise InputError(f"{path}: ends in {path.suffix!r}, expected .svg, .png or .pdf")
    check_output(path, overwrite=overwrite)


@contextmanager
def figure_file(path: Path, size: tuple[float, float], *, overwrite: bool) -> Iterator[Any]:
    """Give an empty figure to draw on; write it to `path` if all went well.

    Parameters
    ----------
    path : path
        A file that ends in .svg, .png or .pdf.
    size : (float, float)
        Width and height in inches.
    overwrite : bool
        Whether to replace a file that exists.

    Raises
    ------
    InputError
        As `check_figure` does.
    """
    check_figure(path, overwrite=overwrite)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # the same picture gives the same bytes: no date, and ids of a fixed salt
    with mpl.rc_context({"svg.hashsalt": "crossgram", "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with whole_file(path, overwrite=overwrite) as temporary:
            date = {"svg": "Date", "pdf": "CreationDate"}.get(_format(path))
            figure.savefig(
                temporary, format=_format(path), metadata={date: None} if date else None, dpi=150
            )


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()
