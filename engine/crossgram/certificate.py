"""What a solution can say of its own accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crossgram.errors import InputError

__all__ = ["Certificate"]

_LISTS = ("residual_sd", "coefficient_spread")
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("rows", "skipped", "source_dim", "target_dim", "rank", "passes"), (int,)),
    **dict.fromkeys(("condition", "digits", "residual", "r2", "ridge"), (int, float)),
    **dict.fromkeys(("method", "precision", "backend", "ridge_chosen_by"), (str,)),
    **dict.fromkeys(("r2_per_output", "notes"), (list, tuple)),
    "intercept": (bool,),
    "folds": (int,),
    **dict.fromkeys(("cross_validated_r2", "bias_spread"), (int, float, type(None))),
    **dict.fromkeys(_LISTS, (list, tuple, type(None))),
}


@dataclass(frozen=True)
class Certificate:
    """Evidence that comes with every map.

    Attributes
    ----------
    rows : int
        Rows that the map was fitted on.
    skipped : int
        Rows left out because they were masked or not finite.
    source_dim, target_dim : int
        Widths of the two spaces.
    rank : int
        Numerical rank of the source rows, centred if there is an intercept; of "reduced rank" that
        of the map, of "procrustes" that of the cross products, which the rotation is made of.
    condition : float
        2-norm condition number of those rows with columns scaled to length 1 (with ridge: of the
        rows with the ridge rows below them), on the part of full rank; of "procrustes" that of
        the rotation, by which a relative change of the cross products grows at most.
    digits : float
        Estimated correct decimal digits of the map (docs/mathematics.md, "Digits").
    residual : float
        Length of the residuals over that of the centred targets.
    r2 : float
        Share of the targets' variance explained, pooled over outputs.
    r2_per_output : tuple of float
        The same of each output; of a constant output 1 if it is reproduced, else 0.
    passes : int
        How many times the data were read.
    method : {"cholesky", "minimum norm", "reduced rank", "procrustes", "procrustes, scaled"}
        How the map was solved: least squares by one of the first two.
    precision : {"exact", "fast"}
        Arithmetic of the products.
    backend : {"numpy", "cupy", "cupy, int8 slices"}
        What computed them; "numpy" too of moments that were read from a file.
    intercept : bool
        Whether a bias was fitted.
    ridge : float
        Strength added to the diagonal of the sum of squares.
    ridge_chosen_by : {"caller", "cross-validation", "generalised cross-validation"}
        How that strength came about.
    folds : int
        Folds of the cross-validation, 0 without.
    cross_validated_r2 : float or None
        Pooled share of variance explained on held-out folds.
    residual_sd : tuple of float, or None
        Standard deviation of the residuals of each output, over the degrees of freedom; None
        with ridge, weights, too few rows, or where the solution is not unique.
    coefficient_spread : tuple of float, or None
        For each source column the standard error of its coefficients over `residual_sd`: the root
        of the diagonal of (XᵀX)⁻¹, X centred if there is an intercept.
    bias_spread : float or None
        The same for the bias, 0 without an intercept.
    notes : tuple of str
        What the reader should know before using the map.
    """

    rows: int
    skipped: int
    source_dim: int
    target_dim: int
    rank: int
    condition: float
    digits: float
    residual: float
    r2: float
    r2_per_output: tuple[float, ...]
    passes: int
    method: str
    precision: str
    backend: str
    intercept: bool
    ridge: float
    ridge_chosen_by: str = "caller"
    folds: int = 0
    cross_validated_r2: float | None = None
    residual_sd: tuple[float, ...] | None = None
    coefficient_spread: tuple[float, ...] | None = None
    bias_spread: float | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Certificate:
        """Make a certificate of what `to_dict` returned.

        Raises
        ------
        InputError
            If fields are missing, unknown, or not of their type.
        """
        try:
            _check_kinds(values)
            return cls(
                **{
                    **values,
                    "r2_per_output": tuple(values["r2_per_output"]),
                    "notes": tuple(map(str, values["notes"])),
                    **{name: values[name] and tuple(values[name]) for name in _LISTS},
                }
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"certificate: its fields are not as expected: {error}") from error


def _check_kinds(values: Mapping[str, Any]) -> None:
    for name, kinds in _KINDS.items():
        value = values[name]
        if type(value) not in kinds:
            raise TypeError(f"{name} is {value!r}")
        if isinstance(value, int) and (abs(value) >= 1 << 63 or (int in kinds[:1] and value < 0)):
            raise TypeError(f"{name} is out of range")
    for name in ("r2_per_output", *_LISTS):
        if {type(value) for value in values[name] or ()} - {int, float}:
            raise TypeError(f"{name} holds something else than numbers")
