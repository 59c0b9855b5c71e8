"""How many pairs are enough, and how many directions: accuracy on held-out rows against both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import Pass, prepared
from crossgram.errors import InputError, MemoryLimitError
from crossgram.evidence import Affine, is_rounding, residual_squares
from crossgram.fitting import settle
from crossgram.folds import FoldedMoments
from crossgram.kernels.numpy import unit_rows
from crossgram.least_squares import solve_least_squares
from crossgram.moments import Moments
from crossgram.pairing import at_rows
from crossgram.procrustes import solve_procrustes
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.reduced_rank import at_rank, check_rank, solve_reduced_rank
from crossgram.ridge import ridge_path
from crossgram.sampling import HeldOut, hold_out
from crossgram.source import Source, SourceLike, first_column
from crossgram.spaces import Space
from crossgram.verification import area_under_curve, pair_scores, true_accepts_at

__all__ = ["FAR", "METHODS", "CurvePoint", "LearningCurve", "learning_curve"]

METHODS = {"lstsq": "plain", "ridge": "ridge", "procrustes": "rotation"}
"""What is fitted to every number of pairs, and what tables call it."""

FAR = 0.01
"""The rate of false accepts at which true accepts are counted."""

_RANKS = (512, 256, 128, 64, 32, 16, 8)
_DEFAULT_SIZES = 12
_LEAST_SIZE = 16
_ENOUGH = 0.01


@dataclass(frozen=True)
class CurvePoint:
    """One map, and how well it does on rows that were held out.

    Attributes
    ----------
    method : {"lstsq", "ridge", "procrustes", "reduced-rank"}
        Plain least squares; with a ridge; the best rotation, scaled; or the best map of a rank.
    rows : int
        Pairs that it was fitted to.
    rank : int or None
        The rank that it was held to.
    ridge : float
        Strength, by generalised cross-validation of the rows that it was fitted to.
    r2 : float
        Share of variance explained, about the mean of the held-out targets.
    auc : float or None
        Area under the ROC curve of mapped probes against targets; None without labels.
    tar : float or None
        Share of true accepts at a rate of false accepts of `FAR`; None also where impostor pairs
        are too few.
    """

    method: str
    rows: int
    rank: int | None
    ridge: float
    r2: float
    auc: float | None = None
    tar: float | None = None


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy on held-out rows against the number of pairs, and against the rank.

    Attributes
    ----------
    source, target : Space
        From and to.
    held_out_by : {"labels", "ids", "rows"}
        What rows were held out by.
    held_out_rows, training_rows : int
        Rows held out and rows left that count.
    skipped : int
        Rows left out because they were masked or not finite.
    scored_rows : int
        Held-out rows whose pairs were scored; 0 where none were.
    far : float
        The rate of false accepts of every `tar`.
    native_auc, native_tar : float or None
        What the target space itself reaches on the same rows.
    points : tuple of CurvePoint
        Every method at every number of pairs, rising.
    ranks : tuple of CurvePoint
        Maps of falling rank, of all training rows.
    notes : tuple of str
        What the reader should know.
    """

    source: Space
    target: Space
    held_out_by: str
    held_out_rows: int
    training_rows: int
    skipped: int
    scored_rows: int
    far: float
    native_auc: float | None
    native_tar: float | None
    points: tuple[CurvePoint, ...]
    ranks: tuple[CurvePoint, ...]
    notes: tuple[str, ...]

    @property
    def enough(self) -> CurvePoint:
        """The fewest pairs, and the best method there, whose R² is within 0.01 of the best."""
        best = max(point.r2 for point in self.points)
        rows = min(point.rows for point in self.points if point.r2 >= best - _ENOUGH)
        return max((p for p in self.points if p.rows == rows), key=lambda point: point.r2)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, and `enough`."""
        return asdict(self) | {"enough": asdict(self.enough)}


@dataclass(frozen=True)
class _Trial:
    """Rows that maps are tried on; recognition needs rows, R² their moments only."""

    held_out: Moments
    source: Space
    target: Space
    labels: NDArray[np.int64]
    probes: NDArray[np.float64]
    gallery: NDArray[np.float64]

    def point(
        self, fit: Affine, method: str, rows: int, *, ridge: float = 0.0, rank: int | None = None
    ) -> CurvePoint:
        auc, tar = None, None
        if len(self.labels):
            auc, tar = _recognition(
                self.labels, self.probes @ fit.coefficients + fit.bias, self.gallery
            )
        return CurvePoint(method, rows, rank, ridge, self._r2(fit), auc, tar)

    def _r2(self, fit: Affine) -> float:
        errors = residual_squares(self.held_out, self.source.name, self.target.name, fit)
        totals = self.held_out.squares[self.held_out.index(self.target.name)]
        if is_rounding(totals, self.held_out, self.target.name).all():
            return float(is_rounding(errors, self.held_out, self.target.name).all())
        return 1.0 - float(errors.sum() / totals.sum())


def learning_curve(
    x: SourceLike,
    y: SourceLike,
    *,
    sizes: Sequence[int] | None = None,
    ranks: Sequence[int] | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    normalize: bool | str = False,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> LearningCurve:
    """Fit maps from x to y to more and more pairs, and try them on rows held out, in one pass.

    Parameters
    ----------
    x, y : source-like, shapes (n, p) and (n, q)
        Paths, stores, NumPy or Dask arrays of the same images, in the same order.
    sizes : sequence of int, optional
        Numbers of pairs; by default twelve from max(16, p / 8) to all that are not held out, evenly
        on a logarithmic scale. Each is a random sample that contains the smaller ones.
    ranks : sequence of int, optional
        Of maps of all training rows; by default 512, 256, ..., 8, as far as the spaces have them.
    held_out : float
        Share of the labels (people) whose rows are held out; without labels, of the ids or rows.
    seed : int
        Another one draws other rows.
    normalize : {False, True, "source", "target", "both"}
        Divide rows by their Euclidean lengths first; True is "both".
    progress : callable
        Called with a `Progress` now and then, in the calling thread.
    **options
        The fields of `crossgram.accumulation.Options` but `maps`, `folds`, `group_by` and `norms`:
        `names`, `weights`, `precision`, `on_nonfinite`, `join`, `memory`, `threads`.

    Returns
    -------
    LearningCurve
        With labels, also recognition: the cosines of pairs of at most 2,000 held-out rows, at most
        20 of one label, mapped probes against targets.

    Raises
    ------
    InputError
        If a size is larger than the rows that are left, a rank than the spaces, the share is out of
        range, there are too few rows, or of the kind that fits as for `fit`.

    Notes
    -----
    A row is in the smallest sample that a hash of its number puts it in; the moments of these
    disjoint buckets add up to those of the samples: docs/mathematics.md, "Learning curves".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(1000, 30))
    >>> y = x[:, :10] + rng.normal(size=(1000, 10))
    >>> curve = learning_curve(x, y, sizes=[40, 400])
    >>> [(point.method, point.rows, round(point.r2, 1)) for point in curve.points[:2]]
    [('lstsq', 40, -1.3), ('ridge', 40, 0.2)]
    """
    for name in ("folds", "group_by"):
        if name in options:
            raise InputError(
                f"{name}: given, but a learning curve divides the rows by itself; leave it out"
            )
    spaces, settled = settle(x, y, normalize, options)
    with prepared(spaces, settled, solve=(0, 1)) as ready:
        ends = ready.plan.spaces[0], ready.plan.spaces[1]
        falling = _ranks(ranks, *ends)
        apart = hold_out(ready.sources, held_out, seed)
        rising = _sizes(sizes, ends[0].dim, apart)
        # the rows beyond the largest size have a part in the curve of ranks
        steps = sorted({*rising, apart.training_rows})
        folds = _divided(ready, apart, steps).collect(progress)
        assert isinstance(folds, FoldedMoments)
        *buckets, rest = folds.folds
        trial = _trial(rest, ends, ready.sources, apart.scored)
    done: list[CurvePoint] = []
    unsolved: list[int] = []
    for step, prefix in zip(steps, _prefixes(buckets), strict=True):
        if step in rising and prefix.rows < 2:
            unsolved.append(step)
        elif step in rising:
            done += _methods(prefix, trial)
        progress(Progress("solve", step, apart.training_rows, 0))
    if not done:
        raise InputError(
            f"sizes: fewer than 2 of {rising[-1]} rows count, being finite and of a weight above "
            "0; ask for more, or give other rows"
        )
    native = _recognition(trial.labels, trial.gallery) if len(trial.labels) else (None, None)
    return LearningCurve(
        source=ends[0],
        target=ends[1],
        held_out_by=apart.by,
        held_out_rows=rest.rows,
        training_rows=prefix.rows,
        skipped=rest.skipped + prefix.skipped,
        scored_rows=len(trial.labels),
        far=FAR,
        native_auc=native[0],
        native_tar=native[1],
        points=tuple(done),
        ranks=tuple(_of_ranks(prefix, trial, falling)),
        notes=_notes(done, unsolved, apart, trial),
    )


def _ranks(given: Sequence[int] | None, source: Space, target: Space) -> list[int]:
    if given is None:
        return sorted({min(rank, source.dim, target.dim) for rank in _RANKS}, reverse=True)
    chosen = np.ravel(given).tolist()
    if not chosen:
        raise InputError("ranks: none given, expected at least one")
    for rank in chosen:
        check_rank(rank, source, target)
    return sorted(set(chosen), reverse=True)


def _sizes(given: Sequence[int] | None, dim: int, apart: HeldOut) -> list[int]:
    most = apart.training_rows
    if given is None:
        least = min(max(_LEAST_SIZE, dim // 8), max(2, most // 8))
        spaced = np.geomspace(least, most, _DEFAULT_SIZES).round().astype(int)
        return sorted({int(size) for size in spaced})
    chosen = np.ravel(given).tolist()
    if not chosen:
        raise InputError("sizes: none given, expected at least one number of pairs")
    for size in chosen:
        _check_size(size, apart)
    return sorted(set(chosen))


def _check_size(size: object, apart: HeldOut) -> None:
    if not isinstance(size, Integral) or int(size) < 2:
        raise InputError(f"sizes: {size!r} given, expected whole numbers of at least 2 pairs")
    left = apart.training_rows
    if int(size) > left:
        raise InputError(
            f"sizes: {size} pairs asked for, but of {left + apart.rows} rows {apart.rows} are held "
            f"out and {left} are left; ask for fewer, hold out less, or give more rows"
        )


def _divided(ready: Pass, apart: HeldOut, steps: Sequence[int]) -> Pass:
    p, q = (space.dim for space in ready.plan.spaces)
    scored = len(apart.scored)
    # cosines, those of impostors once more, and masks; rows, mapped rows and both of length 1
    scoring = 24 * scored**2 + 8 * scored * (p + 4 * q)
    try:
        return ready.divided(len(steps) + 1, apart.assigner(steps), scoring=scoring)
    except MemoryLimitError as error:
        raise MemoryLimitError(
            f"{error}; each of the {len(steps)} sizes counts as a fold"
        ) from None


def _prefixes(buckets: list[Moments]) -> Iterator[Moments]:
    """Yield the moments of the first bucket, of the first two, ...: one object that grows."""
    prefix = buckets[0].empty_like()
    for bucket in buckets:
        prefix.absorb(bucket)
        yield prefix


def _methods(prefix: Moments, trial: _Trial) -> Iterator[CurvePoint]:
    names = trial.source.name, trial.target.name
    plain = solve_least_squares(prefix, *names, intercept=True, ridge=0.0)
    yield trial.point(plain, "lstsq", prefix.rows)
    ridge = _chosen_ridge(prefix, trial)
    penalised = solve_least_squares(prefix, *names, intercept=True, ridge=ridge)
    yield trial.point(penalised, "ridge", prefix.rows, ridge=ridge)
    rotation = solve_procrustes(prefix, *names, intercept=True, scale=True)
    yield trial.point(rotation, "procrustes", prefix.rows)


def _of_ranks(prefix: Moments, trial: _Trial, ranks: Sequence[int]) -> Iterator[CurvePoint]:
    names = trial.source.name, trial.target.name
    ridge = _chosen_ridge(prefix, trial)
    solved = solve_reduced_rank(prefix, *names, rank=ranks[0], intercept=True, ridge=ridge)
    for rank in ranks:
        fit = at_rank(solved, prefix, *names, rank=rank, intercept=True)
        yield trial.point(fit, "reduced-rank", prefix.rows, ridge=ridge, rank=rank)


def _chosen_ridge(prefix: Moments, trial: _Trial) -> float:
    """Return the strength of the smallest GCV score; 0 where all maps are the same."""
    name = trial.source.name
    if is_rounding(prefix.squares[prefix.index(name)], prefix, name).all():
        return 0.0
    return ridge_path(prefix, name, trial.target.name).chosen


def _trial(
    held_out: Moments,
    ends: tuple[Space, Space],
    sources: Sequence[Source],
    scored: NDArray[np.int64],
) -> _Trial:
    """Read the few rows that are scored, those without a direction left out."""
    if held_out.rows < 2:
        raise InputError(
            f"held-out: {held_out.rows} of the rows held out count, being finite and of a weight "
            "above 0, expected at least 2; give more rows, or another share or seed"
        )
    none = _Trial(held_out, *ends, np.zeros(0, np.int64), *(np.zeros((0, s.dim)) for s in ends))
    if not len(scored):
        return none
    picked = [at_rows(source, scored) for source in sources]
    column = first_column(picked, "labels")
    assert column is not None
    _, labels = np.unique(column.read(0, len(scored)), return_inverse=True)
    rows = []
    for source, space in zip(picked, ends, strict=True):
        own = np.empty((source.rows, source.dim), source.dtype)
        source.read(0, own)
        rows.append(unit_rows(own) if space.normalized else own.astype(np.float64))
    known = np.all([np.isfinite(own).all(axis=1) & own.any(axis=1) for own in rows], axis=0)
    labels = labels[known]
    if len(np.unique(labels)) in (0, 1, len(labels)):
        return none
    return _Trial(held_out, *ends, labels, *(own[known] for own in rows))


def _recognition(
    labels: NDArray[np.int64],
    probes: NDArray[np.float64],
    gallery: NDArray[np.float64] | None = None,
) -> tuple[float | None, float | None]:
    """Return AUC and TAR; nothing of a map that leaves nothing of a row."""
    if not probes.any(axis=1).all():
        return None, None
    scores = pair_scores(labels, probes, gallery)
    enough = len(scores.impostor) * FAR >= 1
    tar = true_accepts_at(FAR, scores).true_accept_rate if enough else None
    return area_under_curve(scores), tar


def _notes(
    points: Sequence[CurvePoint],
    unsolved: Sequence[int],
    apart: HeldOut,
    trial: _Trial,
) -> tuple[str, ...]:
    unknowns = trial.source.dim + 1
    narrower = min(trial.source.dim, trial.target.dim)
    sizes = sorted({point.rows for point in points})
    notes = []
    if through := [size for size in sizes if size <= unknowns]:
        notes.append(
            f"at {_listed(through)} pairs, no more than the {unknowns} coefficients per output, "
            "plain least squares interpolates its pairs: use ridge or a rotation there"
        )
    if near := [size for size in sizes if unknowns < size < 2 * unknowns]:
        notes.append(
            f"at {_listed(near)} pairs, less than 2 per coefficient, plain least squares overfits: "
            "use ridge or a rotation there"
        )
    if loose := [size for size in sizes if size <= narrower]:
        notes.append(
            f"at {_listed(loose)} pairs, no more than the {narrower} directions of a rotation, it "
            "turns some of them arbitrarily"
        )
    if unsolved:
        notes.append(
            f"{_listed(unsolved)} pairs were left out: fewer than 2 of them are finite and of a "
            "weight above 0"
        )
    if not len(trial.labels):
        notes.append(
            "recognition was left out: there are no labels"
            if apart.by != "labels"
            else "recognition was left out: the held-out rows have no two of the same label, or "
            "all have the same"
        )
    return tuple(notes)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)
