"""Figures of matplotlib: whole or absent, and the same bytes of the same data."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossgram.errors import InputError
from crossgram.locations import local
from crossgram.output import check_output, whole_file

__all__ = [
    "INK",
    "LINES",
    "SHADE",
    "check_figure",
    "check_matplotlib",
    "figure_file",
    "inline_svg",
    "plain_logarithms",
]

_FORMATS = ("svg", "png", "pdf")

INK, SHADE = "#010203", "#040506"
"""What a page draws in the colour of its text, and in a pale one, dark or light as it is."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours of Okabe and Ito, "Color Universal Design", which colour-blind people tell apart; a page
may have others for a dark background."""

_IN_CSS = {INK: "currentColor", SHADE: "var(--shade)"} | {
    colour: f"var(--line-{k})" for k, colour in enumerate(LINES)
}


def check_figure(given: str | Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a figure that could not be written.

    Raises
    ------
    InputError
        If matplotlib is missing, the ending is unknown, or it is there and not to be
        overwritten.
    """
    path = local(given)
    check_matplotlib(str(path))
    if _format(path) not in _FORMATS:
        raise InputError(f"{path}: ends in {path.suffix!r}, expected .svg, .png or .pdf")
    check_output(path, overwrite=overwrite)


def check_matplotlib(wanted: str) -> None:
    """Refuse to draw where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{wanted}: plots need matplotlib; pip install 'crossgram[report]'")


def inline_svg(name: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Return a figure as an SVG element for an HTML page, in the page's colours.

    Parameters
    ----------
    name : str
        Of letters, digits and hyphens, before the ids of its parts, so that a page may have many.
    size : (float, float)
        Width and height in inches.
    draw : callable
        Draws on an empty figure of matplotlib; `INK`, `SHADE` and `LINES` are the page's colours.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        # names are names, also with a $ in them
        "text.parse_math": False,
        "font.size": 9,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": SHADE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        for panel in figure.axes:
            panel.patch.set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    return re.sub("|".join(_IN_CSS), lambda found: _IN_CSS[found.group()], svg)


def plain_logarithms(axis: Any) -> None:
    """Write the numbers of a logarithmic axis as 0.001, where formulas are not parsed."""
    from matplotlib.ticker import LogFormatterSciNotation

    class Plain(LogFormatterSciNotation):
        def __call__(self, x: float, pos: int | None = None) -> str:
            # those that are to be written at all
            return f"{x:g}" if super().__call__(x, pos) else ""

    for which in ("major", "minor"):
        own = getattr(axis, f"get_{which}_formatter")()
        if isinstance(own, LogFormatterSciNotation):
            getattr(axis, f"set_{which}_formatter")(
                Plain(labelOnlyBase=own.labelOnlyBase, minor_thresholds=own.minor_thresholds)
            )


@contextmanager
def figure_file(given: str | Path, size: tuple[float, float], *, overwrite: bool) -> Iterator[Any]:
    """Give an empty figure to draw on; write it if all went well.

    Parameters
    ----------
    given : path
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
    check_figure(given, overwrite=overwrite)
    path = local(given)
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
