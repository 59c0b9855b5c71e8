"""LinearMap: y = x Wᵀ + b from one embedding space to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.certificate import Certificate
from crossgram.devices import check_device, row_map
from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.kernels.numpy import unit_rows
from crossgram.seen import UNSEEN, Seen
from crossgram.spaces import Space
from crossgram.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

__all__ = ["LinearMap"]

_KIND = "map"


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A map from a source to a target space, y = x Wᵀ + b.

    Attributes
    ----------
    weight : ndarray, shape (q, p), float64
        W; its transpose is the M of X M + 1b.
    bias : ndarray, shape (q,), float64
        b; zeros where no intercept was fitted.
    source, target : Space
        The two spaces. Where the source is normalized, `apply` divides rows by their lengths.
    certificate : Certificate or None
        How well it fits and how exact it is; None for a map that was not fitted.
    fitted_on : Seen
        Which images and people it was fitted on, as far as it is remembered.

    Examples
    --------
    >>> import numpy as np, crossgram as cg
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> fitted = cg.fit(x, x @ np.diag([1.0, 2.0, 3.0]) + 1.0)
    >>> fitted.apply(np.ones((1, 3))).round(6)
    array([[2., 3., 4.]])
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    source: Space
    target: Space
    certificate: Certificate | None = None
    fitted_on: Seen = UNSEEN

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        expected = (self.target.dim, self.source.dim)
        if self.weight.shape != expected or self.bias.shape != expected[:1]:
            raise WidthMismatchError(
                f"map {self.source.name} to {self.target.name}: weight {self.weight.shape} and "
                f"bias {self.bias.shape} given, expected {expected} and {expected[:1]}"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise NonFiniteError(
                f"map {self.source.name} to {self.target.name}: its weight or bias holds NaN or "
                "infinity"
            )

    def apply(self, x: ArrayLike) -> NDArray[Any]:
        """Map rows.

        Parameters
        ----------
        x : array, shape (n, p), floating
            Rows of the source space.

        Returns
        -------
        ndarray, shape (n, q)
            float64 for float64 rows, else float32.

        Raises
        ------
        WidthMismatchError
            If `x` has not p columns.
        """
        rows = self._checked(x)
        mapped: NDArray[Any] = rows @ self.weight.T.astype(rows.dtype)
        mapped += self.bias.astype(rows.dtype)
        return mapped

    def on_device(self, device: str) -> Callable[[ArrayLike], NDArray[Any]]:
        """Return what maps rows as `apply` does, on a device.

        Parameters
        ----------
        device : str
            "cpu"; "cuda", or "cuda:1" for the second GPU, whose results differ in their last bits;
            or "auto", a GPU where there is one.

        Raises
        ------
        InputError
            If it is none of them, or CuPy or the GPU is missing.
        """
        there = check_device(device)
        if there == "cpu":
            return self.apply
        mapped = row_map(self.weight, self.bias, there)
        return lambda x: mapped(self._checked(x))

    def _checked(self, x: ArrayLike) -> NDArray[Any]:
        """Return rows as they are multiplied; refuse those of another width, and no numbers."""
        rows = np.asarray(x)
        if rows.ndim != 2 or rows.shape[1] != self.source.dim:
            raise WidthMismatchError(
                f"map {self.source.name} to {self.target.name}: takes rows of "
                f"{self.source.dim} columns, an array of shape {rows.shape} was given"
            )
        if rows.dtype.kind not in "fiu":
            raise InputError(f"map: rows of dtype {rows.dtype} given, expected floats")
        dtype = np.float32 if rows.dtype.kind == "f" and rows.dtype.itemsize < 8 else np.float64
        if self.source.normalized:
            rows = unit_rows(rows)
        return rows.astype(dtype, copy=False)

    def standard_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the standard errors of the weight and the bias, shapes (q, p) and (q,).

        Of ordinary least squares with residuals that are independent and, for each output, of one
        variance: s_j times the root of the diagonal of (XᵀX)⁻¹, s_j² the residual variance of
        output j over its degrees of freedom.

        Raises
        ------
        InputError
            If the map's certificate has none: with ridge, weights, rows of deficient rank, or too
            few of them; or the map is no least-squares fit.
        """
        certificate = self.certificate
        if (
            certificate is None
            or certificate.residual_sd is None
            or certificate.coefficient_spread is None
        ):
            raise InputError(
                f"map {self.source.name} to {self.target.name}: has no standard errors; they are "
                "of an unweighted least-squares fit without ridge, of full rank, with more rows "
                "than coefficients"
            )
        deviations = np.array(certificate.residual_sd)
        spread = np.array(certificate.coefficient_spread)
        return np.outer(deviations, spread), deviations * (certificate.bias_spread or 0.0)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a safetensors file with the keys `weight` and `bias`, whole or not at all.

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false.
        """
        facts: dict[str, Any] = {
            "source": asdict(self.source),
            "target": asdict(self.target),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
        }
        if self.fitted_on.is_known:
            facts["fitted_on"] = self.fitted_on.to_facts()
        tensors = {"weight": self.weight, "bias": self.bias}
        write_tensors(path, _KIND, tensors, facts, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> LinearMap:
        """Read a file that `save` wrote.

        Raises
        ------
        InputError
            If it is not one.
        CorruptDataError
            If it is truncated.
        """
        tensors, facts = read_tensors(path, _KIND)
        for name, tensor in tensors.items():
            if tensor.dtype != np.float64:
                raise InputError(
                    f"{path}: {name} is of dtype {tensor.dtype}, expected float64; fit again"
                )
        try:
            certificate = facts["certificate"]
            return cls(
                weight=tensors["weight"],
                bias=tensors["bias"],
                source=Space.from_dict(facts["source"]),
                target=Space.from_dict(facts["target"]),
                certificate=None if certificate is None else Certificate.from_dict(certificate),
                fitted_on=Seen.from_facts(facts.get("fitted_on")),
            )
        except (AttributeError, KeyError, TypeError, InputError) as error:
            raise InputError(
                f"{path}: the parts of this map file contradict each other ({error}); fit again"
            ) from error

    def to_torch(self) -> torch.nn.Linear:
        """Return the map as a float32 torch.nn.Linear.

        It takes rows as the map's source space describes them: of length 1 if `source.normalized`.

        Raises
        ------
        InputError
            If PyTorch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise InputError(
                "to_torch: PyTorch is not installed; pip install 'crossgram[extract]'"
            ) from error
        layer = torch.nn.Linear(self.source.dim, self.target.dim)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.array(self.weight)))
            layer.bias.copy_(torch.from_numpy(np.array(self.bias)))
        return layer
