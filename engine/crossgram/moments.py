"""Moments: all that a fit keeps of the rows it has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.double_double import two_sum
from crossgram.errors import CorruptDataError, InputError, WidthMismatchError
from crossgram.history import History, from_facts, subtracted
from crossgram.norm_moments import NormMoments
from crossgram.seen import UNSEEN, Seen
from crossgram.spaces import (
    Pair,
    Space,
    all_pairs,
    check_signature,
    map_pairs,
    with_signatures,
)
from crossgram.tensor_file import read_tensors, write_tensors

__all__ = ["Moments"]

_KIND = "moments"
_STRIP = 256
_SAME_WEIGHT = 1e-12
_NEGATIVE = {"exact": 1e-9, "fast": 1e-4}
"""A variance below zero by no more than this, relative to before, is rounding: that of `fast` is
up to one part in 2^24 for each of a tile's 1,024 rows."""


class Moments:
    """Row count, means and scatter blocks of K spaces, float64: a monoid under merging.

    With the spaces side by side, Z = [X1 | ... | XK], and weights w (all 1 by default), these are
    W = Σ w, the mean m = Σ w z / W and the scatter S = Σ w (z - m)(z - m)ᵀ, of which only the
    blocks asked for are kept, and the diagonal always.

    Parameters
    ----------
    spaces : mapping of name to width, or sequence of Space
        The spaces, in the order in which blocks of rows will be given.
    maps : iterable of (source, target) names, optional
        Keep only the blocks that these maps need; by default every block is kept.
    norms : bool
        Keep the sums that unbiased CKA needs too; of every block and rows of weight 1 only.

    Attributes
    ----------
    rows : int
        Rows seen whose weight is not 0.
    weight : float
        Sum of their weights.
    means : list of ndarray, shape (dim,)
        Mean of each space.
    mean_tails : list of ndarray, shape (dim,)
        What rounding to float64 leaves out of the means, which counts where means are large
        beside spreads: the difference of two means is then exact.
    squares : list of ndarray, shape (dim,)
        Diagonal of each space's scatter.
    blocks : dict of (i, j) to ndarray, shape (dim_i, dim_j)
        Scatter of space i with space j, i <= j.
    skipped : int
        Rows that were left out because they were masked or not finite.
    precision : {"exact", "fast"}
        Arithmetic of the products.
    norms : NormMoments or None
        Third and fourth sums about the means, if they are kept.
    history : tuple of Operation
        What the rows were read from, as far as it was recorded.
    seen : Seen
        Which images and people the rows are of, as far as it is remembered.

    Notes
    -----
    Merging follows Chan, Golub and LeVeque, "Algorithms for computing the sample variance"
    (The American Statistician, 1983), in the form for matrices.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(100, 3)), rng.normal(size=(100, 2))
    >>> whole = Moments({"a": 3, "b": 2})
    >>> whole.update(x, y)
    >>> first, second = Moments({"a": 3, "b": 2}), Moments({"a": 3, "b": 2})
    >>> first.update(x[:40], y[:40]); second.update(x[40:], y[40:])
    >>> np.allclose((first + second).scatter("a", "b"), whole.scatter("a", "b"))
    True
    """

    def __init__(
        self,
        spaces: Mapping[str, int] | Sequence[Space],
        maps: Iterable[tuple[str, str]] | None = None,
        *,
        norms: bool = False,
    ) -> None:
        if isinstance(spaces, Mapping):
            spaces = [Space(name, dim) for name, dim in spaces.items()]
        if norms and maps is not None:
            raise InputError("norms: they need every block, and maps say which to keep; give one")
        self.spaces = tuple(spaces)
        if not all(isinstance(space, Space) for space in self.spaces):
            raise InputError(f"moments: {spaces!r} given, expected spaces, or widths by name")
        pairs = all_pairs(len(spaces)) if maps is None else map_pairs(spaces, maps)
        self._clear(pairs, norms)

    def _clear(self, pairs: Iterable[Pair], norms: bool) -> None:
        dims = [space.dim for space in self.spaces]
        self.rows = 0
        self.weight = 0.0
        self.skipped = 0
        self.precision = "exact"
        self.history: History = ()
        self.seen = Seen.nothing()
        self.means: list[NDArray[np.float64]] = [np.zeros(dim) for dim in dims]
        self.mean_tails: list[NDArray[np.float64]] = [np.zeros(dim) for dim in dims]
        self.squares: list[NDArray[np.float64]] = [np.zeros(dim) for dim in dims]
        self.blocks: dict[Pair, NDArray[np.float64]] = {
            (i, j): np.zeros((dims[i], dims[j])) for i, j in sorted(pairs)
        }
        self.norms = NormMoments.zeros(dims) if norms else None

    @classmethod
    def of_arrays(
        cls,
        spaces: Sequence[Space],
        rows: int,
        weight: float,
        means: list[NDArray[np.float64]],
        mean_tails: list[NDArray[np.float64]],
        squares: list[NDArray[np.float64]],
        blocks: dict[Pair, NDArray[np.float64]],
        skipped: int = 0,
        precision: str = "exact",
        norms: NormMoments | None = None,
    ) -> Moments:
        """Put moments together from arrays that were computed elsewhere; they are not copied."""
        moments = cls.__new__(cls)
        moments.spaces = tuple(spaces)
        moments.rows, moments.weight, moments.skipped = rows, weight, skipped
        moments.means, moments.mean_tails = means, mean_tails
        moments.squares, moments.blocks = squares, blocks
        moments.precision, moments.norms = precision, norms
        moments.history = ()
        moments.seen = UNSEEN
        return moments

    @property
    def pairs(self) -> frozenset[Pair]:
        """The blocks that are kept, as positions in `spaces`."""
        return frozenset(self.blocks)

    def index(self, name: str) -> int:
        """Return the position of the space called `name`.

        Raises
        ------
        InputError
            If there is none.
        """
        names = [space.name for space in self.spaces]
        if name not in names:
            raise InputError(f"no space {name!r} in these moments; there are {', '.join(names)}")
        return names.index(name)

    def scatter(self, first: str, second: str) -> NDArray[np.float64]:
        """Return Σ w (x - mean)(y - mean)ᵀ of two spaces, shape (dim of first, dim of second).

        Raises
        ------
        InputError
            If the block was not accumulated.
        """
        i, j = self.index(first), self.index(second)
        pair = (min(i, j), max(i, j))
        if pair not in self.blocks:
            raise InputError(
                f"the block {first} x {second} was not kept in these moments; accumulate again "
                "without --map, which keeps every block"
            )
        block = self.blocks[pair]
        return block if i <= j else block.T

    def update(self, *rows: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Add rows, the same images in every space.

        Parameters
        ----------
        *rows : array, shape (rows, dim), float16, float32 or float64
            One per space, in the order of `spaces`.
        weights : array, shape (rows,), optional
            Non-negative weight of each row; 1 by default.

        Raises
        ------
        WidthMismatchError
            If a block's width is not its space's.
        NonFiniteError
            If a row holds NaN or infinity; nothing is added then.
        """
        from crossgram.accumulator import Accumulator

        accumulator = Accumulator(self.spaces, self.pairs, norms=self.norms is not None)
        accumulator.add([np.asarray(block) for block in rows], weights=weights)
        self.absorb(accumulator.moments())

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows; `self + other` is the same.

        Raises
        ------
        InputError
            If the spaces or the blocks kept are not the same.
        """
        merged = self.copy()
        merged.absorb(other)
        return merged

    def absorb(self, other: Moments) -> None:
        """Merge `other` into these moments, in place."""
        self._check_same(other, "merge")
        self.spaces = with_signatures(self.spaces, other.spaces)
        if other.weight == 0:
            self._count(other, 1)
            return
        weight = self.weight + other.weight
        _check_weight("merge", weight)
        deltas = [-delta for delta in self._deltas(other)]
        with np.errstate(over="ignore", invalid="ignore"):
            factor = self.weight * (other.weight / weight)
            squares = self._combined_squares(other, 1.0, deltas, factor)
            _check_finite("merge", self.spaces, squares)
            norms = self._combined_norms(other, 1.0, deltas, weight)
            self._combine_blocks(other, 1.0, deltas, factor)
        self.squares, self.norms = squares, norms
        if self.weight == 0:  # a difference to no mean would lose the tails
            self.means = [mean.copy() for mean in other.means]
            self.mean_tails = [tail.copy() for tail in other.mean_tails]
        else:
            self._move_means(deltas, other.weight / weight)
        self._count(other, 1)
        self.weight = weight

    def check_finite(self, doing: str) -> None:
        """Refuse sums of weights, or of squares, by which all blocks are bounded, beyond float64.

        Raises
        ------
        InputError
            Naming the space; the message begins with `doing`.
        """
        _check_weight(doing, self.weight)
        _check_finite(doing, self.spaces, self.squares)
        _check_norms(doing, self.norms)

    def subtract(self, other: Moments) -> Moments:
        """Return the moments of the rows of `self` that are not in `other`; `self - other`.

        The rows of `other` must be among those of `self`. Where they are most of them, digits
        cancel: keep the moments of the parts and merge the ones that stay instead.

        Raises
        ------
        InputError
            If `other` has rows that cannot have been in `self`.
        """
        self._check_same(other, "subtract")
        weight, rounding = self.weight - other.weight, _SAME_WEIGHT * self.weight
        everything = other.rows == self.rows
        if (
            other.rows > self.rows
            or other.skipped > self.skipped
            or weight < -rounding
            or (everything and weight > rounding)
        ):
            raise InputError(
                f"subtract: moments of {_counted(other)} from moments of {_counted(self)}; they "
                "cannot be among them"
            )
        rest = self.empty_like() if weight <= rounding else self.copy()
        rest.spaces = with_signatures(self.spaces, other.spaces)
        if weight <= rounding or other.weight == 0:
            rest.rows, rest.skipped = self.rows, self.skipped
            rest.history, rest.seen = self.history, self.seen
            rest._count(other, -1)
            return rest
        deltas = self._deltas(other)
        factor = -self.weight * (other.weight / weight)
        rest.squares = rest._combined_squares(other, -1.0, deltas, factor)
        rest.norms = self._combined_norms(other, -1.0, deltas, weight)
        rest._combine_blocks(other, -1.0, deltas, factor)
        rest._move_means(deltas, other.weight / weight)
        rest._count(other, -1)
        rest.weight = weight
        if any(
            (after < -_NEGATIVE[self.precision] * before).any()
            for after, before in zip(rest.squares, self.squares, strict=True)
        ):
            raise InputError(
                "subtract: a column would have negative variance; the rows to be removed were "
                "not among those accumulated"
            )
        for squares in rest.squares:
            np.maximum(squares, 0.0, out=squares)
        return rest

    def __add__(self, other: Moments) -> Moments:
        return self.merge(other) if isinstance(other, Moments) else NotImplemented

    def __sub__(self, other: Moments) -> Moments:
        return self.subtract(other) if isinstance(other, Moments) else NotImplemented

    def copy(self) -> Moments:
        """Return moments that share no memory with these."""
        copied = Moments.of_arrays(
            self.spaces,
            self.rows,
            self.weight,
            [mean.copy() for mean in self.means],
            [tail.copy() for tail in self.mean_tails],
            [squares.copy() for squares in self.squares],
            {pair: block.copy() for pair, block in self.blocks.items()},
            self.skipped,
            self.precision,
            None if self.norms is None else self.norms.copy(),
        )
        copied.history, copied.seen = self.history, self.seen
        return copied

    def empty_like(self) -> Moments:
        """Return the identity of merging: the moments of no rows, same spaces and blocks."""
        empty = Moments.__new__(Moments)
        empty.spaces = self.spaces
        empty._clear(self.pairs, self.norms is not None)
        return empty

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a safetensors file; it appears at `path` whole.

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false.
        """
        tensors, facts = self.to_parts()
        write_tensors(path, _KIND, tensors, facts, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read a file that `save` wrote.

        Raises
        ------
        InputError
            If it is not one.
        CorruptDataError
            If it is truncated or its parts contradict each other.
        """
        tensors, facts = read_tensors(path, _KIND)
        return cls.from_parts(tensors, facts, str(path))

    def to_parts(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
        """Return the arrays by name, and the rest as JSON values."""
        tensors = {f"mean.{i}": mean for i, mean in enumerate(self.means)}
        tensors |= {f"mean_tail.{i}": tail for i, tail in enumerate(self.mean_tails)}
        tensors |= {f"squares.{i}": squares for i, squares in enumerate(self.squares)}
        tensors |= {f"scatter.{i}.{j}": block for (i, j), block in self.blocks.items()}
        if self.norms is not None:
            tensors |= self.norms.to_parts()
        facts = {
            "spaces": [asdict(space) for space in self.spaces],
            "rows": self.rows,
            "weight": self.weight,
            "skipped": self.skipped,
            "precision": self.precision,
            "history": [operation.to_dict() for operation in self.history],
        }
        if self.seen.is_known:
            facts["seen"] = self.seen.to_facts()
        return tensors, facts

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[np.float64]], facts: Mapping[str, Any], label: str
    ) -> Moments:
        """Make moments of what `to_parts` returned.

        Raises
        ------
        CorruptDataError
            If the parts contradict each other; the message begins with `label`.
        """
        try:
            spaces = tuple(Space.from_dict(space) for space in facts["spaces"])
            pairs = sorted(_pair(name) for name in tensors if name.startswith("scatter."))
            moments = cls.of_arrays(
                spaces,
                facts["rows"],
                float(facts["weight"]),
                [tensors[f"mean.{i}"] for i in range(len(spaces))],
                [tensors[f"mean_tail.{i}"] for i in range(len(spaces))],
                [tensors[f"squares.{i}"] for i in range(len(spaces))],
                {(i, j): tensors[f"scatter.{i}.{j}"] for i, j in pairs},
                facts["skipped"],
                facts["precision"],
                NormMoments.from_parts(tensors, [space.dim for space in spaces]),
            )
            moments.history = from_facts(facts)
            moments.seen = Seen.from_facts(facts.get("seen"))
            moments._check_parts()
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            OverflowError,
        ) as error:
            raise CorruptDataError(
                f"{label}: the parts of these moments contradict each other ({error}); "
                "accumulate again"
            ) from error
        return moments

    def __repr__(self) -> str:
        spaces = ", ".join(f"{space.name}: {space.dim}" for space in self.spaces)
        return f"Moments({spaces}; {self.rows} rows, {len(self.blocks)} blocks)"

    def _deltas(self, other: Moments) -> list[NDArray[np.float64]]:
        """Return by how much these means are above the other's."""
        return [
            (mean - other.means[k]) + (self.mean_tails[k] - other.mean_tails[k])
            for k, mean in enumerate(self.means)
        ]

    def _move_means(self, deltas: list[NDArray[np.float64]], share: float) -> None:
        for k, delta in enumerate(deltas):
            tail = self.mean_tails[k] + delta * share
            self.means[k], self.mean_tails[k] = two_sum(self.means[k], tail)

    def _combined_squares(
        self, other: Moments, sign: float, deltas: list[NDArray[np.float64]], factor: float
    ) -> list[NDArray[np.float64]]:
        return [
            mine + (sign * theirs + factor * delta * delta)
            for mine, theirs, delta in zip(self.squares, other.squares, deltas, strict=True)
        ]

    def _combined_norms(
        self, other: Moments, sign: float, deltas: list[NDArray[np.float64]], weight: float
    ) -> NormMoments | None:
        """Add or subtract the norms about the mean of the rows of `weight` that result."""
        if self.norms is None or other.norms is None:
            return None
        if self.weight == 0:
            return other.norms.copy()
        mine, theirs = -other.weight / weight, sign * self.weight / weight
        moved = [
            norms.moved([share * d for d in deltas], part.weight, part.squares, part.blocks)
            for norms, part, share in ((self.norms, self, mine), (other.norms, other, theirs))
        ]
        norms = moved[0].plus(moved[1], sign)
        _check_norms("merge" if sign > 0 else "subtract", norms)
        return norms

    def _combine_blocks(
        self, other: Moments, sign: float, deltas: list[NDArray[np.float64]], factor: float
    ) -> None:
        for (i, j), block in self.blocks.items():
            others = other.blocks[i, j]
            for start in range(0, len(block), _STRIP):
                rows = slice(start, start + _STRIP)
                strip = block[rows]
                if sign > 0:
                    strip += others[rows]
                else:
                    strip -= others[rows]
                strip += np.multiply.outer(factor * deltas[i][rows], deltas[j])

    def _count(self, other: Moments, sign: int) -> None:
        self.rows += sign * other.rows
        self.skipped += sign * other.skipped
        if other.rows and other.precision == "fast":
            self.precision = "fast"
        if sign > 0:
            self.history += other.history
            self.seen = self.seen.plus(other.seen)
        else:
            self.seen = self.seen.minus(other.seen)
            self.history = subtracted(self.history, other.history, other.rows + other.skipped)

    def _check_same(self, other: Moments, verb: str) -> None:
        if self.spaces != other.spaces:
            mine, theirs = ([asdict(s) for s in moments.spaces] for moments in (self, other))
            raise WidthMismatchError(
                f"{verb}: the moments are of different spaces: {mine} and {theirs}"
            )
        for space, same in zip(self.spaces, other.spaces, strict=True):
            check_signature(space, same.signature, f"{verb}: {same.name}")
        if self.pairs != other.pairs:
            raise InputError(
                f"{verb}: different blocks were kept: {sorted(self.pairs)} and "
                f"{sorted(other.pairs)}; accumulate both with the same --map"
            )
        if (self.norms is None) != (other.norms is None):
            raise InputError(
                f"{verb}: only one of the moments has norms; accumulate both with --norms, or both "
                "without"
            )

    def _check_parts(self) -> None:
        dims = [space.dim for space in self.spaces]
        if not dims or len({space.name for space in self.spaces}) < len(dims):
            raise ValueError("no spaces, or two of the same name")
        if not all(isinstance(n, int) and n >= 0 for n in (self.rows, self.skipped)):
            raise ValueError(f"{self.rows} rows, {self.skipped} skipped")
        if not 0 <= self.weight < math.inf or (self.rows == 0 and self.weight > 0):
            raise ValueError(f"{self.rows} rows of weight {self.weight}")
        if self.precision not in ("exact", "fast"):
            raise ValueError(f"precision {self.precision!r}")
        if not all(0 <= i <= j for i, j in self.blocks):
            raise ValueError(f"blocks {sorted(self.blocks)}")
        arrays = [*self.means, *self.mean_tails, *self.squares, *self.blocks.values()]
        shapes = [(dim,) for dim in dims] * 3 + [(dims[i], dims[j]) for i, j in self.blocks]
        for array, shape in zip(arrays, shapes, strict=True):
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"{array.dtype} {array.shape} found, float64 {shape} expected")
            if not np.isfinite(array).all():
                raise ValueError("an array holds NaN or infinity")
        if any((squares < 0).any() for squares in self.squares):
            raise ValueError("a sum of squares is negative")
        self._check_norms_apply()

    def _check_norms_apply(self) -> None:
        whole = self.pairs == all_pairs(len(self.spaces)) and self.weight == self.rows
        if self.norms is not None and not whole:
            raise ValueError("norms of weighted rows, or of some blocks only")


def _check_finite(
    doing: str, spaces: Sequence[Space], squares: Sequence[NDArray[np.float64]]
) -> None:
    for space, sums in zip(spaces, squares, strict=True):
        if not np.isfinite(sums).all():
            raise InputError(
                f"{doing}: the sums of squares of {space.name} overflow float64; every value is "
                "finite but too large, divide the rows by a constant first"
            )


def _check_weight(doing: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise InputError(
            f"{doing}: the sum of the weights overflows float64; divide them by a constant first"
        )


def _check_norms(doing: str, norms: NormMoments | None) -> None:
    if norms is not None and not norms.is_finite():
        raise InputError(
            f"{doing}: fourth powers of the rows overflow float64; leave the norms out, or divide "
            "the rows by a constant first"
        )


def _counted(moments: Moments) -> str:
    skipped = f", {moments.skipped} left out" if moments.skipped else ""
    return f"{moments.rows} rows (weight {moments.weight:g}{skipped})"


def _pair(name: str) -> Pair:
    _, i, j = name.split(".")
    return int(i), int(j)
