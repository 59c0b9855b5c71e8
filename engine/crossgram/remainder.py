"""What a subtraction leaves: whether rows can have such moments, and how many digits they keep."""

from __future__ import annotations

import math

import numpy as np

from crossgram.errors import InputError
from crossgram.evidence import EPSILON, is_rounding
from crossgram.moments import Moments

__all__ = ["check_definite", "digits_left"]

_SUM_ROUNDING = {"exact": 16_384, "fast": 1024}
"""Error of a sum of products in units of ε: at most one per row of a segment; of a tile, whose
products `fast` adds in float32."""


def digits_left(before: Moments, after: Moments) -> tuple[float, str]:
    """Return how many digits are left in the worst column, and a warning if it lost one or more."""
    precise = -math.log10(EPSILON[before.precision])
    worst, where = 1.0, ""
    if after.weight > 0:
        for space, whole, rest in zip(before.spaces, before.squares, after.squares, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(is_rounding(whole, before, space.name), 1.0, whole / rest)
            if ratio.max() > worst:
                worst, where = float(ratio.max()), f"column {ratio.argmax()} of {space.name}"
    left = max(0.0, precise - math.log10(worst)) if worst < math.inf else 0.0
    if worst < 10:
        return left, ""
    return left, (
        f"the scatter of what is left is as little as {1 / worst:.1g} of what was there "
        f"({where}), so that digits cancelled: about {left:.1f} of {precise:.1f} are left; keep "
        "the moments of shards, and merge those that stay instead of removing most rows"
    )


def check_definite(before: Moments, after: Moments) -> None:
    """Refuse a scatter with a negative eigenvalue beyond rounding: no rows have such a one.

    Scaled by the lengths l of the columns before, each entry carries at most the rounding of
    three sums of products and of the means, ε |mean| √W / l. The norm of the errors is at most p
    times the greatest of them, so that Cholesky succeeds with so much added to the diagonal.

    Raises
    ------
    InputError
        If it does not; the rows that were removed cannot have been among those accumulated.
    """
    if after.weight == 0 or after.weight == before.weight:
        return
    rounding = 3 * _SUM_ROUNDING[before.precision] * EPSILON[before.precision]
    for i, space in enumerate(before.spaces):
        if (i, i) not in after.blocks:
            continue
        lengths = np.sqrt(before.squares[i])
        lengths[lengths == 0] = 1.0
        shifts = 8 * EPSILON["exact"] * math.sqrt(before.weight) * np.abs(before.means[i])
        allowed = space.dim * (rounding + 2 * float((shifts / lengths).max()))
        scaled = after.blocks[i, i] / np.outer(lengths, lengths)
        scaled.flat[:: space.dim + 1] += allowed
        try:
            np.linalg.cholesky(scaled)
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"subtract: the scatter of {space.name} would have a negative eigenvalue; the "
                "rows to be removed were not among those accumulated"
            ) from error
