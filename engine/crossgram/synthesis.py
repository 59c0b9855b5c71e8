"""Synthetic pairs of stores with a planted map, to try things on and to measure with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import crossgram
from crossgram.errors import InputError
from crossgram.linear_map import LinearMap
from crossgram.locations import local
from crossgram.output import whole_directory
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.spaces import Space
from crossgram.store import EmbeddingStore

__all__ = ["synth"]

_BLOCK_ROWS = 4096
_IDENTITY_SHARE = 0.5
_FACTOR, _MAP, _PEOPLE, _ROWS = range(4)
_LEAST: dict[str, float] = {
    "rows": 1,
    "source_dim": 1,
    "target_dim": 1,
    "condition": 1,
    "noise": 0,
    "mean": -math.inf,
    "people": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class _Recipe:
    """What rows are made with; the parameters of `synth`."""

    condition: float
    noise: float
    mean: float
    people: int
    seed: int


def synth(
    out: str | Path,
    *,
    rows: int,
    source_dim: int = 512,
    target_dim: int = 512,
    condition: float = 1000.0,
    noise: float = 0.1,
    mean: float = 0.0,
    people: int = 0,
    seed: int = 0,
    dtype: DTypeLike = "float32",
    codec: str = "lz4",
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
) -> LinearMap:
    """Write two paired stores, `a.zarr` and `b.zarr`, and the map between them into a directory.

    Parameters
    ----------
    out : path
        The new directory; it appears when it is complete.
    rows : int
        Images, n.
    source_dim, target_dim : int
        Columns of a and of b, p and q.
    condition : float
        Condition number of X: of the square root of the covariance that its rows are drawn from,
        so of the centred X in the limit of many rows. Its singular values are spaced evenly on a
        logarithmic scale.
    noise : float
        Standard deviation of the noise on each value of Y, whose standard deviation without it is
        about 1; R² is then about 1 / (1 + noise²).
    mean : float
        Added to every column of X, whose standard deviations are 1 in the root mean square.
    people : int
        If not 0, row i is of person i mod `people` and has the label `person-00012`; rows of a
        person have half of their variance in common. The covariance, and with it the condition
        number, is then as asked for only if there are many more people than columns.
    seed : int
        Of everything random. A set with more rows begins with the rows of a smaller one.
    dtype : {"float16", "float32", "float64"}
        Of both stores.
    codec, chunk_rows, shard_rows
        As for `EmbeddingStore.create`; they do not change the rows.
    overwrite : bool
        Replace what stands at `out`.
    progress : callable
        Called with a `Progress` after each block.

    Returns
    -------
    LinearMap
        The planted map, which is also in `truth.safetensors`.

    Raises
    ------
    InputError
        If a number is out of its range.
    OutputExistsError
        If `out` exists and `overwrite` is false.

    Notes
    -----
    x = z diag(s) Vᵀ + mean, z standard normal, V orthogonal and uniformly distributed, and
    y = x M + b + noise, computed in float64 from the x that is stored. Only y is rounded after
    that: with `noise` 0 the planted map is exact up to half a unit in the last place of y.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "pair"
    >>> truth = synth(folder, rows=1000, source_dim=8, target_dim=4, noise=0.0)
    >>> fitted = crossgram.fit(folder / "a.zarr", folder / "b.zarr")
    >>> np.allclose(fitted.weight, truth.weight, atol=1e-3)
    True
    """
    recipe = _Recipe(condition, noise, mean, people, seed)
    _check(rows=rows, source_dim=source_dim, target_dim=target_dim, **asdict(recipe))
    kind = np.dtype(dtype)
    truth = _planted_map(recipe, source_dim, target_dim)
    layout: dict[str, Any] = {
        "dtype": kind,
        "codec": codec,
        "chunk_rows": chunk_rows,
        "shard_rows": shard_rows,
        "provenance": {"made_by": f"crossgram {crossgram.__version__} synth", **asdict(recipe)},
    }
    row_bytes = (source_dim + target_dim) * kind.itemsize
    with whole_directory(local(out), overwrite=overwrite) as folder:
        with (
            EmbeddingStore.create(folder / "a.zarr", source_dim, **layout) as a,
            EmbeddingStore.create(folder / "b.zarr", target_dim, **layout) as b,
        ):
            for x, y in _blocks(recipe, truth, rows, kind):
                columns = _columns(recipe, a.rows, a.rows + len(x))
                a.append(x, **columns)
                b.append(y, **columns)
                progress(Progress("synth", a.rows, rows, a.rows * row_bytes))
        truth.save(folder / "truth.safetensors")
    return truth


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= _LEAST[name]):
            least = f"at least {_LEAST[name]}" if math.isfinite(_LEAST[name]) else "that is finite"
            raise InputError(f"{name}: {value} given, expected a number {least}")


def _random(recipe: _Recipe, purpose: int, block: int = 0) -> np.random.Generator:
    """Return the generator of one purpose and block, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(purpose, block)))


def _planted_map(recipe: _Recipe, p: int, q: int) -> LinearMap:
    random = _random(recipe, _MAP)
    return LinearMap(
        weight=random.standard_normal((q, p)) / math.sqrt(p),
        bias=random.standard_normal(q),
        source=Space("a", p),
        target=Space("b", q),
    )


def _covariance_factor(recipe: _Recipe, p: int) -> NDArray[np.float64]:
    """Return diag(s) Vᵀ with mean s² = 1, (p, p)."""
    singular = np.logspace(0, -math.log10(recipe.condition), p)
    singular *= math.sqrt(p) / np.linalg.norm(singular)
    orthogonal, triangle = np.linalg.qr(_random(recipe, _FACTOR).standard_normal((p, p)))
    factor: NDArray[np.float64] = singular[:, None] * (orthogonal * np.sign(np.diag(triangle))).T
    return factor


def _blocks(
    recipe: _Recipe, truth: LinearMap, rows: int, dtype: np.dtype[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield rows of X and Y; a whole block is made each time, whatever is kept of it."""
    p, q = truth.source.dim, truth.target.dim
    factor = _covariance_factor(recipe, p)
    for start in range(0, rows, _BLOCK_ROWS):
        random = _random(recipe, _ROWS, start // _BLOCK_ROWS)
        latent = random.standard_normal((_BLOCK_ROWS, p))
        if recipe.people:
            latent *= math.sqrt(1 - _IDENTITY_SHARE)
            latent += math.sqrt(_IDENTITY_SHARE) * _identities(recipe, start, p)
        x = _stored(latent @ factor + recipe.mean, dtype)
        y = x.astype(np.float64) @ truth.weight.T + truth.bias
        y += recipe.noise * random.standard_normal((_BLOCK_ROWS, q))
        kept = min(_BLOCK_ROWS, rows - start)
        yield x[:kept], _stored(y, dtype)[:kept]


def _stored(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        with np.errstate(over="raise"):
            return values.astype(dtype)
    except FloatingPointError as error:
        raise InputError(
            f"dtype: {dtype} cannot hold {np.abs(values).max():.3g}; choose a wider dtype, or a "
            "smaller mean or noise"
        ) from error


def _identities(recipe: _Recipe, start: int, p: int) -> NDArray[np.float64]:
    """Return what each row of a block has in common with the other rows of its person."""
    people = np.arange(start, start + _BLOCK_ROWS) % recipe.people
    group, position = np.divmod(people, _BLOCK_ROWS)
    shared = np.empty((_BLOCK_ROWS, p))
    for number in np.unique(group).tolist():
        vectors = _random(recipe, _PEOPLE, number).standard_normal((_BLOCK_ROWS, p))
        shared[group == number] = vectors[position[group == number]]
    return shared


def _columns(recipe: _Recipe, start: int, stop: int) -> dict[str, list[str]]:
    columns = {"ids": [f"img-{row:09d}" for row in range(start, stop)]}
    if recipe.people:
        columns["labels"] = [f"person-{row % recipe.people:05d}" for row in range(start, stop)]
    return columns
