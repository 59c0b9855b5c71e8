"""Orthogonal Procrustes from moments: the rotation, perhaps scaled, that fits best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import product, singular_vectors
from crossgram.evidence import (
    EPSILON,
    SUM_ROUNDING,
    certified_map,
    correct_digits,
    ends,
    is_rounding,
    products,
    sums_of_squares,
)
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.spaces import Space

__all__ = ["Rotation", "solve", "solve_procrustes"]

_FEW_DIGITS = 6


@dataclass(frozen=True)
class Rotation:
    """A solution of Procrustes and what it was made of.

    Attributes
    ----------
    coefficients : ndarray, shape (p, q)
        c Q, the M of X M + 1b.
    bias : ndarray, shape (q,)
        The b.
    best_scale : float
        The c that fits best, whether it was asked for or not.
    left, values, right : ndarray, shapes (p, k), (k,) and (k, q), k = min(p, q)
        Singular value decomposition of the cross products; Q = left right.
    """

    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]
    best_scale: float
    left: NDArray[np.float64]
    values: NDArray[np.float64]
    right: NDArray[np.float64]


def solve(
    moments: Moments,
    source: str | None = None,
    target: str | None = None,
    *,
    intercept: bool = True,
    scale: bool = False,
) -> LinearMap:
    """Solve argmin ||c X Q + 1b - Y||² over orthogonal Q from moments, with a certificate.

    Prefer it over least squares where there are few rows, or where distances and angles within
    the source must stay as they are.

    Parameters
    ----------
    moments : Moments
        With the blocks source x source and source x target.
    source, target : str, optional
        Names of the spaces X (n, p) and Y (n, q); by default the first and the second.
    intercept : bool
        Whether to fit b. Without it the rows are not centred.
    scale : bool
        Whether to fit c; it is 1 otherwise.

    Returns
    -------
    LinearMap
        The `rank` of its certificate is the number of directions that the cross products
        determine, at most min(p, q); below that Q is not unique and its `digits` are 0. The
        `condition` is how much larger a relative change of Q may be than one of the cross
        products that caused it.

    Raises
    ------
    InputError
        If the moments are of no rows, a name is unknown, or a block was not kept.

    Notes
    -----
    With the cross products S_xy = U Σ Vᵀ: Q = U Vᵀ, c = tr Σ / tr(Qᵀ S_xx Q) and
    b = mean_y - mean_x c Q (Schönemann, Psychometrika 31, 1966). Q may reflect, as that of
    scipy.linalg.orthogonal_procrustes. With p < q the rows of Q are orthonormal and Q is the best
    of that kind; with p > q its columns are, and it is the best if Y is filled with zeros to p
    columns: the least-squares problem over such Q itself has no closed form.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> moments = Moments({"a": 2, "b": 2})
    >>> moments.update(x, 3 * x @ [[0, 1], [-1, 0]])
    >>> solve(moments, "a", "b", scale=True).weight.T.round(9) + 0.0
    array([[ 0., 3.],
           [-3., 0.]])
    """
    from_space, to_space = ends(moments, source, target)
    names = from_space.name, to_space.name
    fit = solve_procrustes(moments, *names, intercept=intercept, scale=scale)
    x_lengths, y_lengths = (np.sqrt(sums_of_squares(moments, name, intercept)) for name in names)
    noise = SUM_ROUNDING * EPSILON[moments.precision]
    limit = noise * np.linalg.norm(x_lengths) * np.linalg.norm(y_lengths)
    rank = int(np.count_nonzero(fit.values > limit))
    digits = 0.0
    if rank == len(fit.values):
        normal, _ = products(moments, *names, intercept)
        turned, stretched = _relative_errors(fit, x_lengths, y_lengths, normal)
        digits = correct_digits(noise * float(np.hypot(turned, stretched if scale else 0.0)))
    return certified_map(
        moments,
        from_space,
        to_space,
        fit,
        rank=rank,
        condition=_condition(fit, rank),
        digits=digits,
        method="procrustes, scaled" if scale else "procrustes",
        intercept=intercept,
        ridge=0.0,
        notes=_notes(from_space, to_space, fit, rank, digits, scale),
    )


def solve_procrustes(
    moments: Moments, source: str, target: str, *, intercept: bool, scale: bool
) -> Rotation:
    """Solve as `solve` does, without the certificate."""
    normal, cross = products(moments, source, target, intercept)
    i, j = moments.index(source), moments.index(target)
    if intercept:
        constant = [
            is_rounding(moments.squares[moments.index(name)], moments, name)
            for name in (source, target)
        ]
        cross = np.where(np.logical_or.outer(*constant), 0.0, cross)
    left, values, right = singular_vectors(cross)
    rotation = product(left, right)
    spread = float(np.einsum("ij,ij->", rotation, product(normal, rotation)))
    best_scale = float(values.sum()) / spread if spread > 0 else 0.0
    coefficients = best_scale * rotation if scale else rotation
    mean_x, mean_y = moments.means[i], moments.means[j]
    bias = mean_y - mean_x @ coefficients if intercept else np.zeros(len(mean_y))
    return Rotation(coefficients, bias, best_scale, left, values, right)


def _condition(fit: Rotation, rank: int) -> float:
    """Return how much of a relative change of the cross products Q takes over, at worst.

    The rotation between two directions that both spaces determine changes with the sum of their
    singular values; where one space has more directions, or the rest is undetermined, with one.
    """
    values = fit.values[:rank]
    square = len(fit.left) == fit.right.shape[1] == rank
    if rank <= int(square):
        return 1.0
    smallest = (values[-2] + values[-1]) / 2 if square else values[-1]
    return float(values[0] / smallest)


def _relative_errors(
    fit: Rotation,
    x_lengths: NDArray[np.float64],
    y_lengths: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> tuple[float, float]:
    """Estimate ‖ΔQ‖ / ‖Q‖ and Δc / c, in units of the relative rounding of the products.

    Every cross product errs by one unit of the lengths of its columns, independently, and the
    singular value decomposition by ε of the largest value: docs/mathematics.md, "Procrustes".
    """
    width_gap = abs(len(x_lengths) - len(y_lengths))
    # fourth powers of lengths must neither overflow nor vanish
    x_unit, y_unit = _unit(x_lengths), _unit(y_lengths)
    x_lengths, y_lengths = x_lengths / x_unit, y_lengths / y_unit
    values, normal = fit.values / x_unit / y_unit, normal / x_unit / x_unit
    x_noise, y_noise = x_lengths**2 @ fit.left**2, fit.right**2 @ y_lengths**2
    decomposition = (values[0] / SUM_ROUNDING) ** 2
    inside = np.multiply.outer(x_noise, y_noise) + decomposition
    turned = (inside + inside.T) / np.add.outer(values, values) ** 2
    np.fill_diagonal(turned, 0.0)
    x_rest, y_rest = (
        max(float((lengths**2).sum() - noise.sum()), 0.0)
        for lengths, noise in ((x_lengths, x_noise), (y_lengths, y_noise))
    )
    outside = x_rest * y_noise + x_noise * y_rest + width_gap * decomposition
    rotation_error = float(np.sqrt((turned.sum() + (outside / values**2).sum()) / len(values)))

    rotation = product(fit.left, fit.right)
    spread = values.sum() / (fit.best_scale * x_unit / y_unit)
    reach = x_lengths**2 @ product(rotation, rotation.T) ** 2 @ x_lengths**2
    spread_error = float(np.sqrt(reach) / spread)
    if len(x_lengths) > len(y_lengths):
        slope = 2 * np.linalg.norm(product(normal, rotation)) * np.sqrt(len(values)) / spread
        spread_error += float(slope) * rotation_error
    return rotation_error, float(np.sqrt(inside.trace()) / values.sum()) + spread_error


def _unit(lengths: NDArray[np.float64]) -> float:
    """Return a power of two near the largest length, by which division rounds nothing."""
    return float(np.ldexp(1.0, int(np.frexp(lengths.max())[1])))


def _notes(
    source: Space, target: Space, fit: Rotation, rank: int, digits: float, scale: bool
) -> tuple[str, ...]:
    notes = []
    if source.dim > target.dim:
        notes.append(
            f"a projection from {source.dim} to {target.dim} columns keeps no distances; it is "
            f"the best one for targets that are filled with zeros to {source.dim} columns"
        )
    if not scale and not 0.5 <= fit.best_scale <= 2.0:
        notes.append(
            f"rows of {source.name} times {fit.best_scale:.3g} would fit better; use --scale"
        )
    if rank < len(fit.values):
        notes.append(
            f"the cross products of {source.name} and {target.name} have rank {rank} of "
            f"{len(fit.values)}: how the other directions are turned is arbitrary"
        )
    elif digits < _FEW_DIGITS:
        notes.append(
            f"about {digits:.0f} digits of the map are correct, because some directions of "
            f"{source.name} and {target.name} are hardly correlated; how they are turned matters "
            "little to its predictions"
        )
    return tuple(notes)
