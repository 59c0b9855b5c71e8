"""The figures of an atlas by source and target."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

from crossgram.atlases.facts import Atlas
from crossgram.comparison import MEASURES
from crossgram.evaluation import Classification, Identification, Interval, Verification

__all__ = ["FIGURES", "Figure", "Matrix", "figures_of", "matrices_of", "measures_of", "write_table"]

FIGURES = "figures.csv"
"""The table's name in the folder of an atlas."""

_BETTER_WHEN_LOWER = ("equal_error_rate",)


@dataclass(frozen=True)
class Figure:
    """One number of one pair of spaces.

    Attributes
    ----------
    task : {"comparison", "map", "verification", "identification", "classification"}
        What it is of.
    source, target : str
        Names of the spaces: of images, and what they are compared in or read by.
    kind : {"native", "mapped", "mapped, with itself", "unmapped", ""}
        How the images came into the target's space.
    name : str
        Of the figure.
    value : float
        Rates are shares.
    low, high : float or None
        Ends of its confidence interval, where there is one.
    kept : float or None
        The value over the target's native one, where that is not 0; None of native figures, of
        what is no recognition, and of the equal error rate, which is better when it is lower.
    kept_low, kept_high : float or None
        Ends of its interval, in identification.
    lost : float or None
        What the target's native value is better by, in points (hundredths).
    lost_low, lost_high : float or None
        Ends of its interval, in verification.
    """

    task: str
    source: str
    target: str
    kind: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    kept: float | None = None
    kept_low: float | None = None
    kept_high: float | None = None
    lost: float | None = None
    lost_low: float | None = None
    lost_high: float | None = None


def figures_of(atlas: Atlas) -> Iterator[Figure]:
    """Yield every figure of an atlas."""
    yield from _compared(atlas)
    for one in atlas.maps:
        for name in ("r2", "held_out_r2"):
            yield Figure("map", one.source, one.target, "mapped", name, getattr(one, name))
    recognised = [*_verified(atlas), *_identified(atlas), *_classified(atlas)]
    native = {(one.task, one.target, one.name): one.value for one in recognised if _is_native(one)}
    for figure in recognised:
        own = native.get((figure.task, figure.target, figure.name))
        yield figure if own is None or _is_native(figure) else _against(figure, own)


def _is_native(figure: Figure) -> bool:
    return figure.kind == "native"


def _against(figure: Figure, native: float) -> Figure:
    """Return a figure with what is kept and lost of the target's native one."""
    lost = 100 * (native - figure.value)
    if figure.name in _BETTER_WHEN_LOWER:
        return replace(figure, lost=-lost)
    return replace(figure, kept=figure.value / native if native else None, lost=lost)


@dataclass(frozen=True)
class Matrix:
    """A figure of every source and target, native ones on the diagonal.

    Attributes
    ----------
    task, name : str
        As `Figure` has them.
    title : str
        What people call the figure.
    cells : mapping of (str, str) to Figure
        By source and target; some may be missing.
    """

    task: str
    name: str
    title: str
    cells: Mapping[tuple[str, str], Figure]

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share of images, shown in percent."""
        return self.task not in ("comparison", "map")

    def shown(self, value: float) -> str:
        """Return a value for people: in percent, or three decimals of R2 or a measure."""
        return f"{100 * value:.2f}" if self.is_share else f"{value:.3f}"

    def text(self, source: str, target: str) -> str:
        """Return a cell for people."""
        cell = self.cells.get((source, target))
        return "-" if cell is None else self.shown(cell.value)


def measures_of(atlas: Atlas) -> list[Matrix]:
    """Return the measures of every pair of spaces, those that are known."""
    figures = list(_compared(atlas))
    found = []
    for name, title in MEASURES.items():
        cells = {(one.source, one.target): one for one in figures if one.name == name}
        if cells:
            found.append(Matrix("comparison", name, title, cells))
    return found


def matrices_of(atlas: Atlas) -> list[Matrix]:
    """Return the figures by source and target that tell most of an atlas.

    Of verification the area and the true accept rates; of identification the first ranks and
    rates; of classification all; of the maps R² on images held out.
    """
    figures = list(figures_of(atlas))
    wanted = {
        "identification": ("rank-1", "rank-5", "tpir@"),
        "verification": ("area_under_curve", "tar@"),
        "classification": ("top-",),
        "map": ("held_out_r2",),
    }
    matrices: dict[tuple[str, str], dict[tuple[str, str], Figure]] = {}
    for task, beginnings in wanted.items():
        for one in figures:
            if (
                one.task == task
                and one.kind in ("native", "mapped")
                and any(_is(one.name, beginning) for beginning in beginnings)
            ):
                own = matrices.setdefault((task, one.name), {})
                own[one.source, one.target] = one
    return [Matrix(*key, _title(key[1]), cells) for key, cells in matrices.items()]


def _is(name: str, wanted: str) -> bool:
    """Tell whether a figure is the one wanted, or one of those that begin so."""
    return name.startswith(wanted) if wanted[-1] in "@-" else name == wanted


def _title(name: str) -> str:
    known = {"area_under_curve": "AUC", "held_out_r2": "R2 on images held out"}
    kind, _, rate = name.partition("@")
    if rate:
        return f"TAR at FAR {rate}" if kind == "tar" else f"TPIR at FPIR {rate}"
    return known.get(name, name)


def _compared(atlas: Atlas) -> Iterator[Figure]:
    for pair in atlas.comparison.pairs:
        for measure in MEASURES:
            value = getattr(pair, measure)
            if value is not None:
                yield Figure("comparison", pair.source, pair.target, "", measure, value)


def _verified(atlas: Atlas) -> Iterator[Figure]:
    report = atlas.verification
    for own in () if report is None else report.comparisons:
        yield from _reported(
            "verification", own, own.figures(), own.intervals, lost=own.loss_intervals
        )


def _identified(atlas: Atlas) -> Iterator[Figure]:
    # every native search comes in several reports
    seen = set()
    for own in (search for pair in atlas.identification for search in pair.report.searches):
        if own.search not in seen:
            seen.add(own.search)
            # of a native search, what it is to that of the other network is no share kept
            kept = {} if own.kind == "native" else own.kept_intervals
            yield from _reported("identification", own, own.figures(), own.intervals, kept=kept)


def _classified(atlas: Atlas) -> Iterator[Figure]:
    seen = set()
    for own in (one for pair in atlas.classification for one in pair.report.classifications):
        if own.embeddings not in seen:
            seen.add(own.embeddings)
            shares = {f"top-{k}": share for k, share in own.top.items()}
            yield from _reported("classification", own, shares, {})


def _reported(
    task: str,
    own: Verification | Identification | Classification,
    values: Mapping[str, float],
    intervals: Mapping[str, Interval | None],
    *,
    kept: Mapping[str, Interval | None] = MappingProxyType({}),
    lost: Mapping[str, Interval | None] = MappingProxyType({}),
) -> Iterator[Figure]:
    for name, value in values.items():
        low, high = _ends(intervals.get(name))
        kept_low, kept_high = _ends(kept.get(name))
        lost_low, lost_high = _ends(lost.get(name))
        yield Figure(
            task,
            own.source,
            own.target,
            own.kind,
            name,
            value,
            low,
            high,
            kept_low=kept_low,
            kept_high=kept_high,
            lost_low=lost_low,
            lost_high=lost_high,
        )


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def write_table(atlas: Atlas, folder: Path) -> None:
    """Write every figure into the folder of an atlas, as a CSV file."""
    with (folder / FIGURES).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Figure))
        writer.writerows(map(astuple, figures_of(atlas)))
