"""Fitting a map from what lies on disk or in memory, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from crossgram.accumulation import Options, open_spaces, planned, prepared
from crossgram.cross_validation import cross_validated_r2
from crossgram.dense import decomposed_on
from crossgram.errors import InputError
from crossgram.evidence import Affine, ends
from crossgram.folds import FoldedMoments
from crossgram.further_passes import check_digits, refine
from crossgram.grouping import group_count
from crossgram.kernels import backend_of
from crossgram.least_squares import Fit
from crossgram.linear_map import LinearMap
from crossgram.maps import Method
from crossgram.moments import Moments
from crossgram.plan import Plan
from crossgram.progress import ProgressCallback, ignore
from crossgram.resources import PeakMemory
from crossgram.ridge import RidgePath, ridge_path
from crossgram.seen import UNSEEN
from crossgram.source import Source, SourceLike

__all__ = [
    "FitReport",
    "fit",
    "fit_with_report",
    "method_of",
    "plan_fit",
    "settle",
    "solve",
    "solve_with_path",
]

_SIDES = ("source", "target", "both")
_AUTO = "auto"
_FOLDS_OF_ONE_READING = (
    "the held-out R2 is of maps from one pass, which leave out directions that columns nearly "
    "depend on each other in: this map may do better"
)
_AUTO_FOLDS = 5


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
    ridge_path : RidgePath or None
        The scores that the ridge was chosen by, where that was asked for.
    """

    map: LinearMap
    moments: Moments | FoldedMoments
    plan: Plan
    seconds: float
    peak_memory_bytes: int
    ridge_path: RidgePath | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts of the run as JSON values."""
        certificate = self.map.certificate
        assert certificate is not None
        facts = certificate.to_dict()
        for name in ("r2_per_output", "residual_sd", "coefficient_spread", "bias_spread"):
            del facts[name]
        return {
            "source": self.map.source.name,
            "target": self.map.target.name,
            **facts,
            "seconds": self.seconds,
            "rows_per_second": self.plan.rows / self.seconds,
            "bytes_read": self.plan.bytes_to_read * certificate.passes,
            "flops": self.plan.flops,
            "threads": self.plan.threads,
            "peak_memory_bytes": self.peak_memory_bytes,
            "planned_memory_bytes": self.plan.planned_memory_bytes,
            "ridge_path": None if self.ridge_path is None else self.ridge_path.to_dict(),
        }


def fit(
    x: SourceLike,
    y: SourceLike,
    *,
    intercept: bool = True,
    ridge: float | str = 0.0,
    method: str = "lstsq",
    rank: int | None = None,
    scale: bool = False,
    digits: float = 6,
    normalize: bool | str = False,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> LinearMap:
    """Fit the map from x to y: argmin ||X M + 1b - Y||² + ridge ||M||².

    Parameters
    ----------
    x, y : source-like, shapes (n, p) and (n, q)
        Paths, stores, NumPy or Dask arrays of the same images, in the same order.
    intercept : bool
        Whether to fit b.
    ridge : float or "auto"
        Strength, on the scale of sums of squares; b is not penalised. "auto" chooses it by
        cross-validation, and without `folds` keeps five of them for it: by labels, where x or y
        has them, or else by ids, or else of contiguous rows.
    method : {"lstsq", "procrustes", "reduced-rank"}
        Over all M; over rotations and reflections, which keep lengths and angles; or over M of
        at most a rank.
    rank : int, optional
        That rank, from 1 to min(p, q), for "reduced-rank" only.
    scale : bool
        Whether the rotation may be scaled, for "procrustes" only.
    digits : float
        Correct digits of the map, up to 15: of least squares, rows are read again as often as it
        takes and helps. Not with precision "fast".
    normalize : {False, True, "source", "target", "both"}
        Divide rows by their Euclidean lengths first; True is "both".
    progress : callable
        Called with a `Progress` now and then, in the calling thread.
    **options
        The fields of `crossgram.accumulation.Options` but `maps` and `normalize`: `names`, `folds`,
        `group_by`, `weights`, `precision`, `on_nonfinite`, `join`, `memory`, `threads`, `remember`.

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
        method=method,
        rank=rank,
        scale=scale,
        digits=digits,
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
    ridge: float | str = 0.0,
    method: str = "lstsq",
    rank: int | None = None,
    scale: bool = False,
    digits: float = 6,
    normalize: bool | str = False,
    progress: ProgressCallback = ignore,
    record: bool = False,
    **options: Any,
) -> FitReport:
    """Fit as `fit` does, and report the run that made the map.

    With `record`, the moments of the report have a history, as those of `accumulate` do.
    """
    chosen = method_of(method, intercept, ridge, rank, scale)
    check_digits(digits)
    memory = PeakMemory()
    started = time.perf_counter()
    spaces, settled = settle(x, y, normalize, options, held_out=ridge == _AUTO)
    with (
        prepared(spaces, settled, solve=(0, 1)) as ready,
        decomposed_on(settled.solving_device),
    ):
        source, target = ready.plan.spaces
        chosen.check(source, target)
        moments = ready.run(progress, record=record)
        solved, path = _solve(
            moments,
            source.name,
            target.name,
            chosen,
            automatic=ridge == _AUTO,
            again=partial(refine, ready, digits=digits, progress=progress),
        )
        return FitReport(
            map=_computed_on(ready.plan, settled.client, solved),
            moments=moments,
            plan=ready.plan,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=memory.bytes(),
            ridge_path=path,
        )


def plan_fit(
    x: SourceLike,
    y: SourceLike,
    *,
    ridge: float | str = 0.0,
    normalize: bool | str = False,
    **options: Any,
) -> Plan:
    """Return the plan of a fit without running it.

    Parameters as for `fit`, but for those that take no memory: `intercept`, `method`, `rank`,
    `scale`, `digits` and `progress`.
    """
    spaces, settled = settle(x, y, normalize, options, held_out=ridge == _AUTO)
    return planned(spaces, settled, solve=(0, 1))


def solve(
    moments: Moments | FoldedMoments,
    source: str | None = None,
    target: str | None = None,
    *,
    intercept: bool = True,
    ridge: float | str = 0.0,
    method: str = "lstsq",
    rank: int | None = None,
    scale: bool = False,
    remember: bool = True,
    device: str = "cpu",
) -> LinearMap:
    """Solve the map from one space to another from moments, without reading rows.

    Parameters
    ----------
    moments : Moments or FoldedMoments
        With the blocks source x source and source x target; folds add the cross-validated R² to
        the certificate.
    source, target : str, optional
        Names of the spaces; by default the first and the second.
    intercept, method, rank, scale
        As for `fit`.
    ridge : float or "auto"
        As for `fit`; moments without folds choose it by generalised cross-validation.
    remember : bool
        Whether the map remembers which images and people it was fitted on, as far as the moments
        do.
    device : {"cpu", "cuda", "cuda:K", "auto"}
        Where wide matrices are decomposed.

    Raises
    ------
    InputError
        If a name is unknown, a block was not kept, there are no rows, the ridge is none, the
        method is unknown, the rank is out of range, or something is given that is not for the
        method.
    """
    return solve_with_path(
        moments,
        source,
        target,
        intercept=intercept,
        ridge=ridge,
        method=method,
        rank=rank,
        scale=scale,
        remember=remember,
        device=device,
    )[0]


def solve_with_path(
    moments: Moments | FoldedMoments,
    source: str | None = None,
    target: str | None = None,
    *,
    intercept: bool = True,
    ridge: float | str = 0.0,
    method: str = "lstsq",
    rank: int | None = None,
    scale: bool = False,
    remember: bool = True,
    device: str = "cpu",
) -> tuple[LinearMap, RidgePath | None]:
    """Solve as `solve` does, and return the scores that an "auto" ridge was chosen by too."""
    chosen = method_of(method, intercept, ridge, rank, scale)
    with decomposed_on(device):
        solved, path = _solve(moments, source, target, chosen, automatic=ridge == _AUTO)
    return (solved if remember else replace(solved, fitted_on=UNSEEN)), path


def _computed_on(plan: Plan, client: Any, solved: LinearMap) -> LinearMap:
    if plan.device == "cpu" or solved.certificate is None:
        return solved
    # a cluster's GPUs may be of several kinds
    backend = backend_of(plan.device, plan.precision) if client is None else "cupy"
    return replace(solved, certificate=replace(solved.certificate, backend=backend))


def _solve(
    moments: Moments | FoldedMoments,
    source: str | None,
    target: str | None,
    chosen: Method,
    *,
    automatic: bool,
    again: Callable[[Moments, LinearMap], LinearMap] | None = None,
) -> tuple[LinearMap, RidgePath | None]:
    some = moments if isinstance(moments, Moments) else moments.folds[0]
    source, target = (space.name for space in ends(some, source, target))
    path = None
    if automatic:
        path = ridge_path(moments, source, target, intercept=chosen.intercept)
        chosen = replace(chosen, ridge=path.chosen)
    total = moments if isinstance(moments, Moments) else moments.total()
    solved = chosen.solve(total, source, target)
    if again is not None and chosen.name == "lstsq":
        solved = again(total, solved)
    certificate = solved.certificate
    assert certificate is not None
    if path is not None:
        notes = (*certificate.notes, *_choice_notes(path))
        certificate = replace(certificate, ridge_chosen_by=path.chosen_by, notes=notes)
    if isinstance(moments, FoldedMoments):
        solver = _Doubting(chosen)
        held_out = cross_validated_r2(moments, source, target, solver)
        if solver.doubts:
            certificate = replace(certificate, notes=(*certificate.notes, _FOLDS_OF_ONE_READING))
        worse = held_out < 0 <= certificate.r2
        certificate = replace(
            certificate,
            folds=len(moments.with_rows),
            cross_validated_r2=held_out,
            notes=(*certificate.notes, *_fold_notes(moments, worse, chosen, automatic)),
        )
    return replace(solved, certificate=certificate), path


class _Doubting:
    """A solver that remembers whether a rank was in doubt."""

    def __init__(self, chosen: Method) -> None:
        self._chosen = chosen
        self.doubts = False

    def __call__(self, moments: Moments, source: str, target: str) -> Affine:
        fit = self._chosen.coefficients(moments, source, target)
        if isinstance(fit, Fit):
            self.doubts |= bool(fit.rank(moments, self._chosen.intercept).doubt)
        return fit


def _choice_notes(path: RidgePath) -> list[str]:
    notes = []
    if path.cross_validated_r2 is None:
        notes.append(
            "the ridge was chosen by generalised cross-validation, from the rows that it is fitted "
            "on; with --folds it is chosen by rows that are held out"
        )
    if path.rank_is_in_doubt:
        notes.append(
            "the ridge was chosen among maps that leave out directions which columns nearly depend "
            "on each other in; where those count, a ridge of 0, which reads the rows again, is "
            "better"
        )
    elif path.chosen == path.strengths[0]:
        notes.append("the ridge chosen is the weakest that was tried: the map needs none")
    elif path.chosen == path.strengths[-1]:
        notes.append(
            "the ridge chosen is the strongest that was tried, which leaves next to nothing of the "
            "map: the mean of the targets predicts them as well"
        )
    return notes


def _fold_notes(
    moments: FoldedMoments, is_worse: bool, chosen: Method, automatic: bool
) -> list[str]:
    notes = []
    if is_worse:
        remedy = "more rows" if chosen.name == "procrustes" else "ridge, or more rows"
        worse = "on rows that were held out, the map is worse than the mean of the targets"
        notes.append(
            f"{worse} at every ridge that was tried: use more rows"
            if automatic
            else f"{worse}: it overfits; use {remedy}"
        )
    empty = len(moments.folds) - len(moments.with_rows)
    if empty:
        notes.append(f"no rows fell into {empty} of {len(moments.folds)} folds")
    return notes


def method_of(
    name: str, intercept: bool, ridge: float | str, rank: int | None, scale: bool
) -> Method:
    """Return how a map is solved by what a caller of `fit` gives; a ridge of 0 for "auto".

    Raises
    ------
    InputError
        As `fit` does.
    """
    if isinstance(ridge, str):
        if ridge != _AUTO:
            raise InputError(f"ridge: {ridge!r} given, expected 'auto' or a number of at least 0")
        if name == "procrustes":
            raise InputError("ridge: 'auto' given for procrustes, which takes none; leave it out")
        return Method(name, intercept, 0.0, rank, scale)
    return Method(name, intercept, ridge, rank, scale)


def settle(
    x: SourceLike,
    y: SourceLike,
    normalize: bool | str,
    options: dict[str, Any],
    *,
    held_out: bool = False,
) -> tuple[list[Any], Options]:
    """Return what is to be read and how, of what a caller of `fit` gives.

    With `held_out`, folds are kept if none are asked for.
    """
    sources, names = open_spaces([x, y], options.pop("names", None))
    if held_out and not options.get("folds"):
        options |= _folds_for_auto(sources, options.get("group_by", "rows"))
    sides = ("both" if normalize else "") if isinstance(normalize, bool) else normalize
    if sides != "" and sides not in _SIDES:
        raise InputError(f"normalize: {normalize!r} given, expected one of {', '.join(_SIDES)}")
    chosen: Collection[str] = [
        name for name, side in zip(names, _SIDES, strict=False) if sides in (side, "both")
    ]
    return list(sources), Options(names=names, maps=[names], normalize=chosen, **options)  # type: ignore[list-item]


def _folds_for_auto(sources: Sequence[Source], group_by: str) -> dict[str, Any]:
    if sources[0].rows < 2:
        raise InputError("ridge: 'auto' given for one row, expected at least 2 to hold one out")
    columns = [(by, getattr(s, by)) for by in ("labels", "ids") for s in sources]
    for by, column in columns:
        if column is not None and group_by in (by, "rows"):
            groups = group_count(column, _AUTO_FOLDS)
            if groups > 1:
                return {"folds": groups, "group_by": by}
    return {"folds": min(_AUTO_FOLDS, sources[0].rows), "group_by": group_by}
