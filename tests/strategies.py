"""What tests draw from, and the slow and obviously right twins that fast paths are held to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from crossgram import EmbeddingStore, FoldedMoments, Moments
from crossgram.source import Source

EPSILON = float(np.finfo(np.float64).eps)
NAMES = ("a", "b", "c")
FLOATS = ("float16", "float32", "float64")

moderate = settings(max_examples=25, deadline=None, derandomize=True)

seeds = st.integers(0, 2**32 - 1)
row_counts = st.sampled_from([1, 2, 3, 10, 57, 1023, 1024, 1025, 2500])


@st.composite
def spaces(draw: st.DrawFn, least_rows: int = 1, dtypes: Sequence[str] = FLOATS) -> list[Any]:
    """Draw rows of one to three spaces, columns with any mean and spread, some of them constant."""
    rng = np.random.default_rng(draw(seeds))
    rows = max(least_rows, draw(row_counts))
    blocks = []
    for _ in range(draw(st.integers(1, 3))):
        dim = draw(st.integers(1, 5))
        mean = draw(st.sampled_from([0.0, 1.0, 1e3]))
        spread = 10.0 ** rng.integers(-3, 3, size=dim) * (rng.random(dim) > 0.1)
        block = mean + spread * rng.standard_normal((rows, dim))
        blocks.append(block.astype(draw(st.sampled_from(dtypes))))
    return blocks


@st.composite
def related_spaces(draw: st.DrawFn, least_rows: int = 40, most_dim: int = 6) -> list[Any]:
    """Draw rows of two spaces with noisy directions in common, of any mean and scale."""
    rng = np.random.default_rng(draw(seeds))
    rows = draw(st.integers(least_rows, 120))
    common = rng.standard_normal((rows, 3))
    blocks = []
    for _ in range(2):
        dim = draw(st.integers(1, most_dim))
        own = rng.standard_normal((rows, dim))
        block = common @ rng.standard_normal((3, dim)) + draw(st.sampled_from([0.3, 3.0])) * own
        blocks.append(draw(st.sampled_from([1e-3, 1.0, 50.0])) * (block + 3))
    return blocks


def centred(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows minus their mean, float64."""
    values = rows.astype(np.float64)
    return np.asarray(values - values.mean(axis=0))


def orthogonal(rng: np.random.Generator, dim: int) -> NDArray[np.float64]:
    """Return a random orthogonal matrix."""
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def gram_error(*spaces: NDArray[Any]) -> float:
    """Return how far products of whitened columns may be off when they come from Gram matrices.

    Entries of the scatter of unit columns carry 16 ε (sums of products), which whitening
    multiplies by the square of each space's condition number, once per column.
    """
    allowed = 0.0
    for rows in spaces:
        columns = centred(rows)
        condition = np.linalg.cond(columns / np.linalg.norm(columns, axis=0))
        allowed += 16 * EPSILON * columns.shape[1] * float(condition) ** 2
    return allowed


@st.composite
def splits(draw: st.DrawFn, rows: int) -> list[slice]:
    """Draw consecutive runs that cover the rows, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    return [slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, rows], strict=True)]


@dataclass(frozen=True)
class Regression:
    """Rows of two spaces, in folds of any size, with weights or without."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    assigned: NDArray[np.int64]
    weights: NDArray[np.float64]

    def folded(self) -> FoldedMoments:
        """Return the moments of each fold."""
        folds = [
            moments_of([self.x[rows], self.y[rows]], self.weights[rows])
            for rows in (self.assigned == k for k in range(self.assigned.max() + 1))
        ]
        return FoldedMoments(tuple(folds), "rows")


@st.composite
def regressions(draw: st.DrawFn) -> Regression:
    """Draw rows, fewer or more than columns, some columns constant or repeated."""
    rng = np.random.default_rng(draw(seeds))
    rows, p, q = draw(st.integers(4, 60)), draw(st.integers(1, 30)), draw(st.integers(1, 4))
    x = rng.standard_normal((rows, p)) * 10.0 ** rng.uniform(-1, 1, p) + rng.standard_normal(p)
    x[:, rng.random(p) < 0.1] = 0.1
    if p > 1 and draw(st.booleans()):
        x[:, 0] = x[:, -1]
    x[0, 0] += 1.0  # so that not all rows are the same
    y = x @ rng.standard_normal((p, q)) + draw(st.sampled_from([0.0, 1.0, 100.0])) * (
        rng.standard_normal((rows, q)) + 1
    )
    assigned = np.sort(rng.integers(0, draw(st.integers(2, 5)), rows))
    assigned[:2], assigned[-2:] = 0, 1
    weights = rng.integers(0, 4, rows) / 2 if draw(st.booleans()) else np.ones(rows)
    weights[[0, 1, -2, -1]] = 1
    return Regression(x, y, assigned, weights)


def moments_of(
    blocks: Sequence[NDArray[Any]],
    weights: ArrayLike | None = None,
    maps: Sequence[tuple[str, str]] | None = None,
    *,
    norms: bool = False,
) -> Moments:
    """Return the moments of rows that were added all at once."""
    dims = dict(zip(NAMES, (block.shape[1] for block in blocks), strict=False))
    moments = Moments(dims, maps, norms=norms)
    moments.update(*blocks, weights=weights)
    return moments


def direct_scatter(
    x: NDArray[Any], y: NDArray[Any], weights: ArrayLike | None = None
) -> NDArray[np.longdouble]:
    """Return Σ w (x - mean)(y - mean)ᵀ by its definition, in long double."""
    w = np.ones(len(x)) if weights is None else np.asarray(weights)
    centred = []
    for block in (x, y):
        values = block.astype(np.longdouble)
        centred.append(values - (w @ values) / w.sum())
    return centred[0].T @ (w[:, None] * centred[1])


def assert_moments_agree(
    found: Moments, expected: Moments, blocks: Sequence[NDArray[Any]], scale: float = 1.0
) -> None:
    """Hold two moments to the rounding error of sums over `blocks`, all rows that went into them.

    With l the length of a centred column and a that of the column itself, a sum of n products of
    centred values has an error of at most n ε l_i l_j; and an error of ε a / √n in a mean moves
    the scatter by at most n ε (a_i l_j + l_i a_j + ε a_i a_j) where runs of rows merge; l <= a.
    """
    assert (found.rows, found.weight) == (expected.rows, expected.weight)
    assert (found.spaces, found.pairs) == (expected.spaces, expected.pairs)
    rows = [block.astype(np.longdouble) for block in blocks]
    whole = [np.linalg.norm(block, axis=0) for block in rows]
    centred = [np.linalg.norm(block - block.mean(axis=0), axis=0) for block in rows]
    allowed = 4 * scale * (len(rows[0]) + 4) * EPSILON

    def tolerance(i: int, j: int) -> NDArray[np.longdouble]:
        mixed = np.outer(centred[i], whole[j]) + np.outer(whole[i], centred[j])
        return allowed * (mixed + EPSILON * np.outer(whole[i], whole[j]))

    for i, j in expected.pairs:
        assert (np.abs(found.blocks[i, j] - expected.blocks[i, j]) <= tolerance(i, j)).all()
    for i, lengths in enumerate(whole):
        assert (np.abs(found.squares[i] - expected.squares[i]) <= tolerance(i, i).diagonal()).all()
        assert (np.abs(found.means[i] - expected.means[i]) <= allowed * lengths).all()


def assert_same_bits(found: Moments, expected: Moments) -> None:
    """Hold two moments to equality of every number."""
    assert (found.spaces, found.pairs) == (expected.spaces, expected.pairs)
    assert (found.rows, found.weight) == (expected.rows, expected.weight)
    assert (found.skipped, found.precision) == (expected.skipped, expected.precision)
    norms = [{} if m.norms is None else m.norms.to_parts() for m in (found, expected)]
    assert norms[0].keys() == norms[1].keys()
    for name, sums in norms[0].items():
        np.testing.assert_array_equal(sums, norms[1][name])
    for i in range(len(expected.spaces)):
        np.testing.assert_array_equal(found.means[i], expected.means[i])
        np.testing.assert_array_equal(found.squares[i], expected.squares[i])
    for pair, block in expected.blocks.items():
        np.testing.assert_array_equal(found.blocks[pair], block)


def exact_least_squares(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    intercept: bool,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the coefficients (p, q) of least squares without any rounding but the last.

    Floats are fractions with powers of two below, so that products and sums of integers and
    Gaussian elimination with fractions solve the normal equations exactly.
    """
    ones = np.ones((len(x), 1 if intercept else 0))
    columns, unit = _integers(np.column_stack([x, ones]))
    targets, target_unit = _integers(y)
    counted, _ = _integers(np.ones((len(x), 1)) if weights is None else weights[:, None])
    weighted = counted * columns
    solution = _eliminate(weighted.T @ columns, weighted.T @ targets) * Fraction(unit, target_unit)
    return solution[: x.shape[1]].astype(float)


def _integers(values: NDArray[np.float64]) -> tuple[NDArray[Any], int]:
    """Return the values times a common power of two as integers, and that power."""
    ratios = [[value.as_integer_ratio() for value in row] for row in values.tolist()]
    unit = max(below for row in ratios for _, below in row)
    return np.array([[n * (unit // d) for n, d in row] for row in ratios], dtype=object), unit


def _eliminate(matrix: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    p = len(matrix)
    rows = np.column_stack([matrix, right]) * Fraction(1)
    for k in range(p):
        rows[k] /= rows[k, k]
        for other in range(p):
            if other != k:
                rows[other] -= rows[other, k] * rows[k]
    return rows[:, p:]


def column_scaled_digits(
    found: NDArray[np.float64], exact: NDArray[np.float64], lengths: NDArray[np.float64]
) -> float:
    """Return the correct digits of the worst output, with the columns of X scaled to length 1."""
    errors = np.linalg.norm(lengths[:, None] * (found - exact), axis=0)
    sizes = np.linalg.norm(lengths[:, None] * exact, axis=0)
    return float(-np.log10(max((errors / sizes).max(), EPSILON)))


def splitmix(place: int) -> int:
    """Return the number at a place of SplitMix64 from seed 0, in Python's integers."""
    mask = 2**64 - 1
    z = (place + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


@dataclass(frozen=True)
class Drawn:
    """What a learning curve draws, each row by itself: held out or not, and the order."""

    held_out: list[int]
    training: list[int]
    scored: list[int]


def drawn(
    keys: Sequence[int],
    share: float = 0.2,
    seed: int = 0,
    *,
    by_label: bool = False,
    masked: Collection[int] = (),
) -> Drawn:
    """Draw rows with these keys: held-out rows rising, the others in their random order.

    By label, the very share of the labels is held out, rounded, and two at the least. Masked rows
    are nowhere.
    """
    rows = [row for row in range(len(keys)) if row not in masked]
    decisive = [splitmix(key ^ splitmix(2 * seed)) for key in keys]
    bound = share * 2**64
    if by_label:
        labels = sorted({decisive[row] for row in rows})
        bound = labels[min(max(2, round(share * len(labels))), len(labels) - 1)]
    order = [splitmix(row ^ splitmix(2 * seed + 1)) for row in range(len(keys))]
    held_out = [row for row in rows if decisive[row] < bound]
    training = sorted(set(rows) - set(held_out), key=order.__getitem__)
    scored: list[int] = []
    for row in sorted(held_out, key=lambda row: (decisive[row], order[row])):
        if sum(keys[row] == keys[other] for other in scored[-20:]) < 20 and len(scored) < 2000:
            scored.append(row)
    return Drawn(held_out, training, sorted(scored))


def write_store(
    path: Path,
    rows: NDArray[Any],
    ids: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    masked: NDArray[np.bool_] | None = None,
) -> Path:
    """Write a store of these rows, NaN where masked, in chunks of 64, and return its path."""
    values = rows if masked is None else np.where(masked[:, None], np.nan, rows).astype(rows.dtype)
    with EmbeddingStore.create(path, rows.shape[1], dtype=rows.dtype, chunk_rows=64) as writer:
        writer.append(values, ids=ids, labels=labels, masked=masked)
    return path


def mask_of(count: int, *rows: int) -> NDArray[np.bool_]:
    """Return a mask of so many rows, true of these."""
    mask = np.zeros(count, bool)
    mask[list(rows)] = True
    return mask


def rows_of(store: EmbeddingStore | Source) -> NDArray[Any]:
    """Return all rows of a store or source."""
    rows = np.empty((store.rows, store.dim), store.dtype)
    store.read(0, rows)
    return rows


def values_of(column: Any) -> list[Any]:
    """Return all ids or labels of a store."""
    assert column is not None
    values: list[Any] = column.read(0, len(column)).tolist()
    return values


def exact_products(
    x: NDArray[np.float64], y: NDArray[np.float64], *, intercept: bool
) -> tuple[mpmath.matrix, mpmath.matrix]:
    """Return the products x x and x y, centred with an intercept, to 50 digits."""
    n = len(x)
    columns, unit = _integers(x)
    targets, target_unit = _integers(y)

    def product(right: NDArray[Any], right_unit: int) -> mpmath.matrix:
        sums = n * (columns.T @ right)
        if intercept:
            sums = sums - np.outer(columns.sum(axis=0), right.sum(axis=0))
        scale = mpmath.mpf(n * unit * right_unit)
        return mpmath.matrix([[mpmath.mpf(int(value)) / scale for value in row] for row in sums])

    with mpmath.workdps(50):
        return product(columns, unit), product(targets, target_unit)


def floats(matrix: mpmath.matrix) -> NDArray[np.float64]:
    """Return an mpmath matrix as an array."""
    return np.array(matrix.tolist(), dtype=float).reshape(matrix.rows, matrix.cols)


def correct_digits(found: NDArray[np.float64], exact: mpmath.matrix) -> float:
    """Return the correct digits of a matrix as a whole, 16 at most."""
    error = floats(mpmath.matrix(found.tolist()) - exact)
    relative = np.linalg.norm(error) / np.linalg.norm(floats(exact))
    return float(-np.log10(max(relative, EPSILON)))


def paired_rows(
    seed: int, rows: int = 200, p: int = 5, q: int = 4, noise: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows with means and correlated columns, of which the second are a noisy map."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, p)) @ rng.standard_normal((p, p)) + rng.standard_normal(p)
    y = x @ rng.standard_normal((p, q)) + rng.standard_normal(q)
    return x, y + noise * rng.standard_normal((rows, q))


def longdouble_least_squares(
    x: NDArray[Any], y: NDArray[Any], *, intercept: bool
) -> NDArray[np.longdouble]:
    """Return the coefficients (p, q) by Householder's QR in long double, of scaled columns."""
    p = x.shape[1]
    rows = np.hstack([x, y]).astype(np.longdouble)
    if intercept:
        rows -= rows.mean(axis=0)
    lengths = np.sqrt((rows[:, :p] ** 2).sum(axis=0))
    rows[:, :p] /= lengths
    for k in range(p):
        mirror = rows[k:, k].copy()
        length = np.sqrt((mirror**2).sum())
        mirror[0] += length if mirror[0] >= 0 else -length
        mirror /= np.sqrt((mirror**2).sum())
        rows[k:, k:] -= 2 * np.outer(mirror, mirror @ rows[k:, k:])
    solution = rows[:p, p:].copy()
    for k in reversed(range(p)):
        solution[k] -= rows[k, k + 1 : p] @ solution[k + 1 :]
        solution[k] /= rows[k, k]
    return np.asarray(solution / lengths[:, None])
