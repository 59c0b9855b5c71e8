"""Comparing spaces: every measure of every pair, from one set of moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import accumulate
from crossgram.cca import (
    CanonicalCorrelations,
    Whitening,
    canonical_correlations,
    principal_whitening,
    whiten,
)
from crossgram.dense import product, singular_values
from crossgram.errors import InputError
from crossgram.evidence import EPSILON, rank_is_in_doubt
from crossgram.folds import FoldedMoments, load_moments
from crossgram.locations import Location, locate
from crossgram.moments import Moments
from crossgram.progress import ProgressCallback, ignore
from crossgram.similarity import linear_cka, procrustes_distance, unbiased_linear_cka
from crossgram.source import SourceLike

__all__ = ["MEASURES", "ComparedSpace", "Comparison", "PairMeasures", "compare"]

MEASURES = {
    "r2": "R2",
    "cycle_r2": "cycle R2",
    "linear_cka": "CKA",
    "unbiased_cka": "unbiased CKA",
    "mean_cca": "mean CCA",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "procrustes": "Procrustes",
}
"""What is compared, in the order of tables, and what people call it."""

_IDENTICAL = dict.fromkeys(MEASURES, 1.0) | {"procrustes": 0.0}
_DOUBTFUL = 1e-4
_MUCH_BY_CHANCE = 0.05


@dataclass(frozen=True)
class ComparedSpace:
    """One of the spaces of a comparison.

    Attributes
    ----------
    name : str
        Its name.
    dim, rank : int
        Columns, and the rank of the centred rows.
    condition : float
        2-norm condition number of those rows, columns scaled to length 1.
    components : int
        Principal directions that SVCCA keeps.
    """

    name: str
    dim: int
    rank: int
    condition: float
    components: int


@dataclass(frozen=True)
class PairMeasures:
    """What is measured of one space against another, both centred.

    Attributes
    ----------
    source, target : str
        Names of the two spaces.
    r2 : float
        Share of the target's variance that the least-squares map from the source explains.
    cycle_r2 : float
        Share of the source's variance that comes back through the map to the target and the map
        from there.
    linear_cka : float
        Linear centred kernel alignment.
    unbiased_cka : float or None
        The same of unbiased estimates, which few rows do not raise; None without norms.
    mean_cca : float
        Mean canonical correlation.
    svcca : float
        The same between the principal directions of both spaces.
    pwcca : float
        Canonical correlations weighted by how much of the source their variates carry.
    procrustes : float
        Squared distance after the best rotation, of rows scaled to a total of 1; from 0 to 2.
    """

    source: str
    target: str
    r2: float
    cycle_r2: float
    linear_cka: float
    unbiased_cka: float | None
    mean_cca: float
    svcca: float
    pwcca: float
    procrustes: float


@dataclass(frozen=True)
class Comparison:
    """Every measure of every ordered pair of spaces.

    Attributes
    ----------
    spaces : tuple of ComparedSpace
        In the order of the moments.
    rows : int
        Rows that they were compared on.
    variance : float
        Share of variance that SVCCA keeps.
    regularization : float
        What was added to the spaces' scatter for canonical correlations, in mean variances.
    pairs : tuple of PairMeasures
        Every ordered pair, those of the first source first.
    notes : tuple of str
        What the reader should know.
    """

    spaces: tuple[ComparedSpace, ...]
    rows: int
    variance: float
    regularization: float
    pairs: tuple[PairMeasures, ...]
    notes: tuple[str, ...] = ()

    def matrix(self, measure: str) -> NDArray[np.float64]:
        """Return one measure, shape (K, K), sources by targets; NaN where there is none.

        Parameters
        ----------
        measure : str
            One of `MEASURES`. On the diagonal is what it gives of identical spaces.

        Raises
        ------
        InputError
            If there is no such measure.
        """
        if measure not in MEASURES:
            raise InputError(f"measure: {measure!r} given, expected one of {', '.join(MEASURES)}")
        names = [space.name for space in self.spaces]
        values = np.diag([_IDENTICAL[measure]] * len(names))
        for pair in self.pairs:
            value = getattr(pair, measure)
            place = names.index(pair.source), names.index(pair.target)
            values[place] = np.nan if value is None else value
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def compare(
    data: Moments | FoldedMoments | str | Path | Sequence[SourceLike],
    *,
    variance: float = 0.99,
    regularization: float = 0.0,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> Comparison:
    """Compare every pair of spaces: R2, CKA, CCA, Procrustes distance and more.

    Parameters
    ----------
    data : Moments, FoldedMoments, path of a moments file, or sequence of source-like
        Moments with every block; or the spaces themselves, which are accumulated first: row i is
        the same image in every one.
    variance : float
        Share of variance of the principal directions that SVCCA keeps.
    regularization : float
        Added to the scatter of both spaces for canonical correlations, in units of a space's mean
        variance; R2 and what comes back from a cycle are without it.
    progress : callable
        Called with a `Progress` now and then while rows are read, in the calling thread.
    **options
        Of spaces that are accumulated first, the fields of `crossgram.accumulation.Options` but
        `maps`; norms are kept unless there are weights.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If a block was not kept, there are fewer than two spaces, or all rows of one are the same.

    Notes
    -----
    All of it comes from the scatter: docs/mathematics.md, "Comparing spaces".

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 3))
    >>> compared = compare([rows, 2 * rows[:, ::-1]], names=["a", "b"])
    >>> [round(value, 6) + 0.0 for value in (compared.pairs[0].r2, compared.pairs[0].procrustes)]
    [1.0, 0.0]
    """
    moments = _moments(data, progress, options)
    names = [space.name for space in moments.spaces]
    plain = {name: _whiten(moments, name) for name in names}
    steadied = plain
    if regularization:
        steadied = {name: whiten(moments, name, regularization=regularization) for name in names}
    principal = {name: principal_whitening(moments, name, variance) for name in names}
    measured: dict[tuple[str, str], PairMeasures] = {}
    for first, second in combinations(names, 2):
        cross = moments.scatter(first, second)
        fitted = canonical_correlations(plain[first], plain[second], cross)
        correlated = fitted
        if regularization:
            correlated = canonical_correlations(steadied[first], steadied[second], cross)
        directions = singular_values(product(product(principal[first], cross), principal[second].T))
        there = PairMeasures(
            source=first,
            target=second,
            r2=_r2(moments, second, fitted),
            cycle_r2=_cycle_r2(moments, first, fitted),
            linear_cka=linear_cka(moments, first, second),
            unbiased_cka=unbiased_linear_cka(moments, first, second),
            mean_cca=float(correlated.correlations.mean()),
            svcca=float(np.minimum(directions, 1.0).mean()),
            pwcca=correlated.projection_weighted(),
            procrustes=procrustes_distance(moments, first, second),
        )
        measured[first, second] = there
        measured[second, first] = replace(
            there,
            source=second,
            target=first,
            r2=_r2(moments, first, fitted.swapped()),
            cycle_r2=_cycle_r2(moments, second, fitted.swapped()),
            pwcca=correlated.swapped().projection_weighted(),
        )
    return Comparison(
        spaces=tuple(
            ComparedSpace(
                name=space.name,
                dim=space.dim,
                rank=plain[space.name].rank,
                condition=plain[space.name].condition,
                components=len(principal[space.name]),
            )
            for space in moments.spaces
        ),
        rows=moments.rows,
        variance=variance,
        regularization=regularization,
        pairs=tuple(measured[pair] for pair in permutations(names, 2)),
        notes=_notes(moments, plain, steadied),
    )


def _moments(
    data: Moments | FoldedMoments | str | Path | Sequence[SourceLike],
    progress: ProgressCallback,
    options: dict[str, Any],
) -> Moments:
    found: Any = data
    if isinstance(data, (list, tuple)) and len(data) > 1:
        norms = options.get("weights") is None
        found = accumulate(
            data, progress=progress, **{"norms": norms, "remember": False, **options}
        )
    elif isinstance(data, (Moments, FoldedMoments, str, Path)) and options:
        raise InputError(
            f"compare: {' and '.join(options)} given with moments, which were accumulated without; "
            "accumulate again, or leave the option out"
        )
    elif isinstance(data, (str, Path)) and not _is_store(locate(data)):
        found = load_moments(data)
    if isinstance(found, FoldedMoments):
        found = found.total()
    if not isinstance(found, Moments) or len(found.spaces) < 2:
        which = f", {data}" if isinstance(data, (str, Path)) else ""
        raise InputError(
            f"compare: one space given{which}; give a list of two or more, or moments of them"
        )
    return found


def _is_store(path: Location) -> bool:
    return path.is_dir() or path.suffix == ".npy"


def _whiten(moments: Moments, space: str) -> Whitening:
    if moments.weight == 0:
        raise InputError("compare: these moments are of no rows; accumulate some")
    whitened = whiten(moments, space)
    if whitened.rank == 0:
        raise InputError(
            f"compare: the {moments.rows} rows of {space} are all the same, which is like nothing; "
            "leave the space out, or give more rows"
        )
    return whitened


def _r2(moments: Moments, target: str, correlated: CanonicalCorrelations) -> float:
    """Return R2 of the map to the target: of the variance along its variates, ρ² is explained."""
    return _share(moments, target, correlated.correlations**2, correlated.second_loadings)


def _cycle_r2(moments: Moments, source: str, correlated: CanonicalCorrelations) -> float:
    """Return R2 of the source after the map to the target and the map from there.

    Its variates come back ρ² as long as they were, so that (1 - ρ²)² of the variance along them
    is lost.
    """
    kept = 1 - (1 - correlated.correlations**2) ** 2
    return _share(moments, source, kept, correlated.first_loadings)


def _share(
    moments: Moments, space: str, parts: NDArray[np.float64], loadings: NDArray[np.float64]
) -> float:
    """Return the share of a space's variance in these parts of its variates, one of each."""
    total = float(moments.squares[moments.index(space)].sum())
    return min(float(parts @ np.square(loadings).sum(axis=1)) / total, 1.0)


def _notes(
    moments: Moments, plain: Mapping[str, Whitening], steadied: Mapping[str, Whitening]
) -> tuple[str, ...]:
    notes = []
    if moments.norms is None:
        notes.append(
            "unbiased CKA was left out, for want of norms: accumulate with --norms, which rows of "
            "other weights than 1 exclude"
        )
    rank = max(space.rank for space in plain.values())
    chance = rank / max(moments.rows - 1, 1)
    if chance > _MUCH_BY_CHANCE:
        notes.append(
            f"{moments.rows} rows for spaces of rank up to {rank}: of unrelated rows, R2 would be "
            f"about {min(chance, 1):.2f}, and canonical correlations are raised likewise; use more "
            "rows, or --regularization"
        )
    for name, space in plain.items():
        if rank_is_in_doubt(moments, name, space.rank, intercept=True):
            notes.append(
                f"columns of {name} depend on each other, or nearly so, which one pass cannot tell "
                f"above a condition number of about 1e7: {space.rank} directions were compared"
            )
    for name, space in steadied.items():
        error = EPSILON[moments.precision] * space.condition**2
        if error > _DOUBTFUL:
            notes.append(
                f"the columns of {name} are nearly dependent (condition {space.condition:.1g}): "
                f"canonical correlations may be wrong by {min(error, 1):.0e}; --regularization "
                "steadies them"
            )
    return tuple(notes)
