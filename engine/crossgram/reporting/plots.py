"""The plots of a report, each an SVG element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from crossgram.atlases.facts import Atlas, AtlasMap
from crossgram.atlases.tables import Matrix
from crossgram.evaluation import Identification, Verification
from crossgram.figures import LINES, inline_svg, plain_logarithms
from crossgram.heat_maps import DISTANCES, draw_cells, limits_of
from crossgram.reporting.names import Names

__all__ = ["Plot", "heat_map", "of_maps", "of_searches", "of_spaces", "of_verification"]

_SIZE = 4.4, 3.3
_LEGEND_LINE = 0.2
_LEGEND_COLUMNS = 2
_MARKERS = ("", "o", "s", "^", "D", "v")
_KINDS = {"native": "-", "mapped": "--", "unmapped": ":"}
_ROOM_FOR_NAMES, _LETTER = 8, 0.075
"""Letters beside a heat map of the usual size, and inches of each more."""

_LEAST_SPAN = 0.05
"""Of the values of a heat map, whose colours would otherwise blow up nothing."""


@dataclass(frozen=True)
class Plot:
    """A figure of a page.

    Attributes
    ----------
    title : str
        What it shows.
    svg : str
        The element.
    """

    title: str
    svg: str


@dataclass(frozen=True)
class _Curve:
    name: str
    space: int
    kind: str
    x: Sequence[float]
    y: Sequence[float]


def of_verification(atlas: Atlas, target: str) -> Iterator[Plot]:
    """Yield the ROC and the DET curves of comparisons in a target's space."""
    report = atlas.verification
    curves = [
        _roc(own, atlas)
        for own in (() if report is None else report.comparisons)
        if own.target == target and own.kind in _KINDS
    ]
    if not curves:
        return
    least = min(curve.x[0] for curve in curves)

    def roc(panel: Any) -> None:
        _lines(panel, curves)
        panel.set(xscale="log", xlim=(least, 1), ylim=(0, 1.02))
        panel.set(xlabel="false accept rate", ylabel="true accept rate")

    def det(panel: Any) -> None:
        rejects = [
            _Curve(own.name, own.space, own.kind, own.x, [1 - y for y in own.y]) for own in curves
        ]
        _lines(panel, [_positive(own) for own in rejects])
        panel.set(xscale="log", yscale="log", xlim=(least, 1))
        panel.set(xlabel="false accept rate", ylabel="false reject rate")

    number = atlas.names.index(target)
    yield _plot(f"roc-{number}", f"ROC in {target}'s space", roc, len(curves))
    yield _plot(f"det-{number}", f"DET in {target}'s space", det, len(curves))


def of_searches(atlas: Atlas, target: str) -> Iterator[Plot]:
    """Yield the CMC of searches in a target's gallery."""
    searches: dict[str, Identification] = {}
    for pair in atlas.identification:
        searches |= {own.search: own for own in pair.report.searches if own.target == target}
    curves = [
        _Curve(
            _called(own.kind, own.source, atlas),
            atlas.names.index(own.source),
            own.kind,
            list(own.ranks),
            list(own.ranks.values()),
        )
        for own in sorted(searches.values(), key=lambda own: list(_KINDS).index(own.kind))
    ]
    if not curves:
        return

    def cmc(panel: Any) -> None:
        _lines(panel, curves)
        ranks = list(curves[0].x)
        panel.set(xscale="log", ylim=(0, 1.02), xlabel="rank", ylabel="found among the first")
        panel.set_xticks(ranks, ranks)
        panel.minorticks_off()

    number = atlas.names.index(target)
    yield _plot(f"cmc-{number}", f"CMC in {target}'s gallery", cmc, len(curves))


def of_maps(atlas: Atlas, target: str) -> Iterator[Plot]:
    """Yield singular values, R² per dimension and ridge curves of the maps to a target."""
    maps = [own for own in atlas.maps if own.target == target]
    if not maps:
        return
    number = atlas.names.index(target)

    def falling(values: Callable[[AtlasMap], Sequence[float]], label: str, scale: str) -> Any:
        def draw(panel: Any) -> None:
            curves = [
                _Curve(
                    _called("native", own.source, atlas),
                    atlas.names.index(own.source),
                    "native",
                    range(1, 1 + len(y)),
                    y,
                )
                for own, y in ((own, values(own)) for own in maps)
            ]
            _lines(panel, [_positive(own) for own in curves] if scale == "log" else curves)
            panel.set(yscale=scale, xlabel="number, largest first", ylabel=label)

        return draw

    yield _plot(
        f"singular-{number}",
        f"Singular values of the maps to {target}",
        falling(lambda own: own.singular_values, "singular value", "log"),
        len(maps),
    )
    yield _plot(
        f"r2-{number}",
        f"R² of each dimension of {target}, on images held out",
        falling(lambda own: own.held_out_r2_per_output, "R²", "linear"),
        len(maps),
    )
    if any(own.ridge_curve for own in maps):
        draw = partial(_ridge, atlas, maps)
        yield _plot(f"ridge-{number}", f"Ridge of the maps to {target}", draw, len(maps))


def of_spaces(atlas: Atlas) -> Plot:
    """Return the spectra of the networks' own embeddings."""

    def draw(panel: Any) -> None:
        curves = [
            _Curve(
                _called("native", space.name, atlas),
                k,
                "native",
                range(1, 1 + len(space.spectrum)),
                [value / space.spectrum[0] for value in space.spectrum],
            )
            for k, space in enumerate(atlas.spaces)
        ]
        _lines(panel, [_positive(own) for own in curves])
        panel.set(yscale="log", xlabel="number, largest first", ylabel="over the largest")

    title = "Singular values of the centred embeddings, columns of length 1"
    return _plot("spectra", title, draw, len(atlas.spaces))


def heat_map(name: str, matrix: Matrix, names: Sequence[str]) -> Plot:
    """Return a table of source and target as a heat map.

    Its colours span the values that a measure may have, or those that are there.

    Parameters
    ----------
    name : str
        Of the element.
    matrix : Matrix
        The figures.
    names : sequence of str
        Of the spaces.
    """
    called = Names(names)
    values = np.full((len(names), len(names)), np.nan)
    for (source, target), cell in matrix.cells.items():
        values[names.index(source), names.index(target)] = cell.value
    if matrix.is_share:
        high = float(np.nanmax(values))
        limits = min(float(np.nanmin(values)), high - _LEAST_SPAN), high
    else:
        limits = limits_of(matrix.name)

    def draw(figure: Any) -> None:
        panel = figure.add_subplot()
        draw_cells(
            panel,
            values,
            [called.cut(name) for name in names],
            matrix.shown,
            limits=limits,
            is_distance=matrix.name in DISTANCES,
            across=[called.short(name) for name in names] if called.are_numbered else None,
        )
        panel.spines[:].set_visible(False)
        panel.set(xlabel="target", ylabel="source")
        # cells are square, so that the first layout does not know where the names will end
        figure.draw_without_rendering()

    side = 1.6 + 0.55 * len(names)
    longest = max(len(called.cut(own)) for own in names)
    beside = max(0, longest - _ROOM_FOR_NAMES) * _LETTER
    below = 0.0 if called.are_numbered else 0.7 * beside
    return Plot(matrix.title, inline_svg(name, (side + 0.4 + beside, side + below), draw))


def _ridge(atlas: Atlas, maps: Sequence[AtlasMap], panel: Any) -> None:
    curves = [
        _Curve(
            _called("native", own.source, atlas),
            atlas.names.index(own.source),
            "native",
            [point.strength for point in own.ridge_curve],
            [point.r2 for point in own.ridge_curve],
        )
        for own in maps
    ]
    _lines(panel, curves)
    for own, curve in zip(maps, curves, strict=True):
        colour = LINES[curve.space % len(LINES)]
        panel.axhline(own.held_out_r2, color=colour, linewidth=0.7, linestyle=":")
    panel.set(xscale="log", xlabel="strength of the ridge", ylabel="R² on images held out")


def _roc(own: Verification, atlas: Atlas) -> _Curve:
    points = [point for point in own.roc if point.false_accept > 0]
    return _Curve(
        _called(own.kind, own.source, atlas),
        atlas.names.index(own.source),
        own.kind,
        [point.false_accept for point in points],
        [point.true_accept for point in points],
    )


def _called(kind: str, source: str, atlas: Atlas) -> str:
    names = Names(atlas.names)
    return names.cut(source) if kind == "native" else f"{names.short(source)} {kind}"


def _positive(curve: _Curve) -> _Curve:
    """Return the part of a curve that a logarithmic axis can show."""
    kept = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y > 0]
    x, y = zip(*kept, strict=True) if kept else ((), ())
    return _Curve(curve.name, curve.space, curve.kind, x, y)


def _lines(panel: Any, curves: Sequence[_Curve]) -> None:
    for curve in curves:
        own = curve.space // len(LINES) % len(_MARKERS)
        panel.plot(
            curve.x,
            curve.y,
            label=_in_legend(curve.name),
            color=LINES[curve.space % len(LINES)],
            linestyle=_KINDS[curve.kind],
            linewidth=2 if curve.kind == "native" else 1.4,
            marker=_MARKERS[own],
            markevery=0.1,
            markersize=4,
        )
    panel.grid(visible=True)


def _in_legend(name: str) -> str:
    """Return a name for a legend; matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _plot(name: str, title: str, draw: Callable[[Any], None], entries: int) -> Plot:
    lines = -(-entries // _LEGEND_COLUMNS)

    def whole(figure: Any) -> None:
        panel = figure.add_subplot()
        draw(panel)
        for axis in (panel.xaxis, panel.yaxis):
            plain_logarithms(axis)
        figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS)

    width, height = _SIZE
    return Plot(title, inline_svg(name, (width, height + _LEGEND_LINE * lines), whole))
