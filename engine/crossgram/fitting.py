"""Fitting a map from what lies on disk or in memory, in one call."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from crossgram import least_squares
from crossgram.accumulation import Options, open_spaces, prepared
from crossgram.cross_validation import cross_validated_r2
from crossgram.errors import InputError
from crossgram.folds import FoldedMoments
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.plan import Plan
from crossgram.progress import ProgressCallback, ignore
from crossgram.resources import PeakMemory
from crossgram.source import SourceLike

__all__ = ["FitReport", "fit", "fit_with_report", "plan_fit", "solve"]

_SIDES = ("source", "target", "both")


@dataclass(frozen=True)
class FitReport:
    """A fitted map and the run that made it.

    Attributes
    ----------
    map : LinearMap
        The map, with its certificate.
    moments : Moments or FoldedMoments
        What it was solved from.
    plan : Plan
        What the run was to read and hold.
    seconds : float
        Wall time of reading, accumulating and solving.
    peak_memory_bytes : int
        Measured peak of the resident set above its size at the start.
    """

    map: LinearMap
    moments: Moments | FoldedMoments
    plan: Plan
    seconds: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts of the run as JSON values."""
        certificate = self.map.certificate
        assert certificate is not None
        facts = certificate.to_dict()
        del facts["r2_per_output"]
        return {
            "source": self.map.source.name,
            "target": self.map.target.name,
            **facts,
            "seconds": self.seconds,
            "rows_per_second": self.plan.rows / self.seconds,
            "bytes_read": self.plan.bytes_to_read,
            "flops": self.plan.flops,
            "threads": self.plan.threads,
            "peak_memory_bytes": self.peak_memory_bytes,
            "planned_memory_bytes": self.plan.planned_memory_bytes,
        }


def fit(
    x: SourceLike,
    y: SourceLike,
    *,
    intercept: bool = True,
    ridge: float = 0.0,
    normalize: bool | str = False,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> LinearMap:
    """Fit the least-squares map from x to y: argmin ||X M + 1b - Y||² + ridge ||M||².

    Parameters
    ----------
    x, y : source-like, shapes (n, p) and (n, q)
        Paths, stores, NumPy or Dask arrays of the same images, in the same order.
    intercept : bool
        Whether to fit b.
    ridge : float
        Strength, on the scale of sums of squares; b is not penalised.
    normalize : {False, True, "source", "target", "both"}
        Divide rows by their Euclidean lengths first; True is "both".
    progress : callable
        Called with a `Progress` now and then, in the calling thread.
    **options
        The fields of `crossgram.accumulation.Options` but `maps` and `normalize`: `names`, `folds`,
        `group_by`, `weights`, `precision`, `on_nonfinite`, `join`, `memory`, `threads`.

    Returns
    -------
    LinearMap
        With a certificate; with `folds` also the cross-validated R² in it.

    Raises
    ------
    InputError
        Of the kind that fits: `PairingError`, `NonFiniteError`, `CorruptDataError`, ...

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    >>> fitted = fit(x, 2 * x[:, :2])
    >>> fitted.weight.round(6) + 0.0
    array([[2., 0., 0., 0.],
           [0., 2., 0., 0.]])
    >>> round(fitted.certificate.r2, 6)
    1.0
    """
    report = fit_with_report(
        x,
        y,
        intercept=intercept,
        ridge=ridge,
        normalize=normalize,
        progress=progress,
        **options,
    )
    return report.map


def fit_with_report(
    x: SourceLike,
    y: SourceLike,
    *,
    intercept: bool = True,
    ridge: float = 0.0,
    normalize: bool | str = False,
    progress: ProgressCallback = ignore,
    record: bool = False,
    **options: Any,
) -> FitReport:
    """Fit as `fit` does, and report the run that made the map.

    With `record`, the moments of the report have a history, as those of `accumulate` do.
    """
    memory = PeakMemory()
    started = time.perf_counter()
    spaces, settled = _settle(x, y, normalize, options)
    with prepared(spaces, settled, solve=(0, 1)) as ready:
        moments = ready.run(progress, record=record)
        source, target = (space.name for space in ready.plan.spaces)
        solved = solve(moments, source, target, intercept=intercept, ridge=ridge)
        return FitReport(
            map=solved,
            moments=moments,
            plan=ready.plan,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=memory.bytes(),
        )


def plan_fit(
    x: SourceLike, y: SourceLike, *, normalize: bool | str = False, **options: Any
) -> Plan:
    """Return the plan of a fit without running it; parameters as for `fit`."""
    spaces, settled = _settle(x, y, normalize, options)
    with prepared(spaces, settled, solve=(0, 1)) as ready:
        return ready.plan


def solve(
    moments: Moments | FoldedMoments,
    source: str | None = None,
    target: str | None = None,
    *,
    intercept: bool = True,
    ridge: float = 0.0,
) -> LinearMap:
    """Solve the map from one space to another from moments, without reading rows.

    Parameters
    ----------
    moments : Moments or FoldedMoments
        With the blocks source x source and source x target; folds add the cross-validated R² to
        the certificate.
    source, target : str, optional
        Names of the spaces; by default the first and the second.
    intercept, ridge
        As for `fit`.

    Raises
    ------
    InputError
        If a name is unknown, a block was not kept, there are no rows, or the ridge is negative.
    """
    if isinstance(moments, Moments):
        return least_squares.solve(moments, source, target, intercept=intercept, ridge=ridge)
    solved = least_squares.solve(moments.total(), source, target, intercept=intercept, ridge=ridge)
    assert solved.certificate is not None
    held_out = cross_validated_r2(
        moments, solved.source.name, solved.target.name, intercept=intercept, ridge=ridge
    )
    notes = solved.certificate.notes
    if held_out < 0:
        overfits = (
            "on rows that were held out, the map is worse than the mean of the targets: it "
            "overfits; use ridge, or more rows"
        )
        notes = (*notes, overfits)
    filled = len(moments.with_rows)
    if filled < len(moments.folds):
        notes += (f"no rows fell into {len(moments.folds) - filled} of {len(moments.folds)} folds",)
    certificate = replace(
        solved.certificate,
        folds=filled,
        cross_validated_r2=held_out,
        notes=notes,
    )
    return replace(solved, certificate=certificate)


def _settle(
    x: SourceLike, y: SourceLike, normalize: bool | str, options: dict[str, Any]
) -> tuple[list[Any], Options]:
    sources, names = open_spaces([x, y], options.pop("names", None))
    sides = normalize if isinstance(normalize, str) else ("both" if normalize else "")
    if sides and sides not in _SIDES:
        raise InputError(f"normalize: {normalize!r} given, expected one of {', '.join(_SIDES)}")
    chosen: Collection[str] = [
        name for name, side in zip(names, _SIDES, strict=False) if sides in (side, "both")
    ]
    return list(sources), Options(names=names, maps=[names], normalize=chosen, **options)  # type: ignore[list-item]
