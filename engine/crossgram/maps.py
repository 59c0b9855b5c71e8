"""Which map is to be solved from moments: least squares, a rotation, or one of reduced rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crossgram import least_squares, procrustes, reduced_rank
from crossgram.errors import InputError
from crossgram.evidence import Affine
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.spaces import Space

__all__ = ["METHODS", "Method"]

_SOLVERS: dict[str, tuple[Callable[..., LinearMap], Callable[..., Affine]]] = {
    "lstsq": (least_squares.solve, least_squares.solve_least_squares),
    "procrustes": (procrustes.solve, procrustes.solve_procrustes),
    "reduced-rank": (reduced_rank.solve, reduced_rank.solve_reduced_rank),
}

METHODS = tuple(_SOLVERS)
"""Least squares; the best orthogonal map; the best map through so many directions."""


@dataclass(frozen=True)
class Method:
    """How a map is to be solved; the same for `fit` and `solve`.

    Attributes
    ----------
    name : {"lstsq", "procrustes", "reduced-rank"}
        Which of the methods.
    intercept : bool
        Whether to fit a bias.
    ridge : float
        Strength, on the scale of sums of squares; not for "procrustes".
    rank : int, optional
        Rank of the map, for "reduced-rank", which needs it, and for nothing else.
    scale : bool
        Whether the rotation may be scaled, for "procrustes" only.

    Raises
    ------
    InputError
        If the method is unknown, or something is given that is not for it.
    """

    name: str = "lstsq"
    intercept: bool = True
    ridge: float = 0.0
    rank: int | None = None
    scale: bool = False

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(f"method: {self.name!r} given, expected one of {', '.join(METHODS)}")
        least_squares.check_ridge(self.ridge)
        if self.name == "reduced-rank" and self.rank is None:
            raise InputError("method: reduced-rank needs a rank; say which")
        if self.name != "reduced-rank" and self.rank is not None:
            raise InputError(
                f"rank: {self.rank} given for {self.name}; it is for --method reduced-rank"
            )
        if self.name != "procrustes" and self.scale:
            raise InputError(f"scale: given for {self.name}; it is for --method procrustes")
        if self.name == "procrustes" and self.ridge != 0:
            raise InputError(
                f"ridge: {self.ridge} given for procrustes, whose rotation has no lengths to "
                "penalise; leave it out"
            )

    def check(self, source: Space, target: Space) -> None:
        """Refuse a rank that no map between these spaces has, before anything is read.

        Raises
        ------
        InputError
            If the rank is no whole number from 1 to the smaller width.
        """
        if self.rank is not None:
            reduced_rank.check_rank(self.rank, source, target)

    def solve(
        self, moments: Moments, source: str | None = None, target: str | None = None
    ) -> LinearMap:
        """Return the map with its certificate; by default from the first space to the second."""
        certified, _ = _SOLVERS[self.name]
        return certified(moments, source, target, **self._options)

    def coefficients(self, moments: Moments, source: str, target: str) -> Affine:
        """Return the map's coefficients alone."""
        _, bare = _SOLVERS[self.name]
        return bare(moments, source, target, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        own: dict[str, dict[str, Any]] = {
            "lstsq": {"ridge": self.ridge},
            "procrustes": {"scale": self.scale},
            "reduced-rank": {"ridge": self.ridge, "rank": self.rank},
        }
        return {"intercept": self.intercept, **own[self.name]}
