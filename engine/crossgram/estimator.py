"""LeastSquares: the fit from moments as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.accumulation import accumulate
from crossgram.certificate import Certificate
from crossgram.errors import InputError, WidthMismatchError
from crossgram.least_squares import solve
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments

try:
    from sklearn.base import (
        BaseEstimator,
        MultiOutputMixin,
        RegressorMixin,
        TransformerMixin,
    )
    from sklearn.base import ClassNamePrefixFeaturesOutMixin as NamedMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise InputError(
        "LeastSquares: needs scikit-learn 1.6 or newer; pip install 'crossgram[sklearn]'"
    ) from error

__all__ = ["LeastSquares"]

_FLOATS = (np.float64, np.float32)
_NAMES = ("X", "y")


class LeastSquares(NamedMixin, TransformerMixin, MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Exact linear least squares from moments, with a certificate.

    Prefer it over scikit-learn's LinearRegression and Ridge where rows come in blocks, where
    there are many more rows than columns, or where the number of correct digits matters.

    Parameters
    ----------
    fit_intercept : bool, default True
        Whether to fit the intercept; it is never penalised.
    ridge : float, default 0.0
        Strength on the scale of sums of squares, as `alpha` of scikit-learn's Ridge.
    precision : {"exact", "fast"}, default "exact"
        float64 products; or float32 products of centred rows, added in float64.

    Attributes
    ----------
    moments_ : Moments
        Of all rows seen, spaces "X" and "y".
    map_ : LinearMap
        The fitted map.
    certificate_ : Certificate
        How well it fits and how exact it is.
    coef_ : ndarray, shape (q, p), or (p,) for a one-dimensional y
        Coefficients.
    intercept_ : ndarray, shape (q,), or float for a one-dimensional y
        Intercepts; zeros without `fit_intercept`.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str, shape (p,)
        Their names, where X was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> model = LeastSquares().fit(x, x @ [1.0, 2.0, 3.0] + 4.0)
    >>> model.coef_.round(6), round(model.intercept_, 6)
    (array([1., 2., 3.]), 4.0)
    """

    def __init__(
        self, *, fit_intercept: bool = True, ridge: float = 0.0, precision: str = "exact"
    ) -> None:
        self.fit_intercept = fit_intercept
        self.ridge = ridge
        self.precision = precision

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> LeastSquares:
        """Fit to these rows alone.

        Parameters
        ----------
        X : array, shape (n, p)
            Rows of the source space.
        y : array, shape (n, q) or (n,)
            The same rows in the target space.
        sample_weight : array, shape (n,), optional
            Non-negative weight of each row.

        Returns
        -------
        LeastSquares
            This estimator.

        Raises
        ------
        ValueError
            If X, y, a weight or a parameter cannot be used; an `InputError` unless scikit-learn
            itself refuses it.
        """
        self.moments_ = self._accumulate(X, y, sample_weight, reset=True)
        self._map: LinearMap | None = self._solve()
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> LeastSquares:
        """Add rows to those seen so far; parameters and errors as for `fit`.

        The map is solved when it is next asked for, so that many blocks cost one solution.
        """
        if hasattr(self, "moments_"):
            self.moments_.absorb(self._accumulate(X, y, sample_weight, reset=False))
        else:
            self.moments_ = self._accumulate(X, y, sample_weight, reset=True)
        self._map = None
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the mapped rows, shape (n, q), or (n,) after a one-dimensional y."""
        mapped = self.transform(X)
        return mapped[:, 0] if self._one_dimensional else mapped

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the mapped rows, shape (n, q)."""
        check_is_fitted(self)
        return self.map_.apply(validate_data(self, X, dtype=_FLOATS, reset=False))

    @property
    def map_(self) -> LinearMap:
        """The fitted map."""
        check_is_fitted(self)
        if self._map is None:
            self._map = self._solve()
        return self._map

    @property
    def certificate_(self) -> Certificate:
        """How well the map fits and how exact it is."""
        certificate = self.map_.certificate
        assert certificate is not None
        return certificate

    @property
    def coef_(self) -> NDArray[np.float64]:
        """Coefficients, shape (q, p), or (p,) for a one-dimensional y."""
        return self.map_.weight[0] if self._one_dimensional else self.map_.weight

    @property
    def intercept_(self) -> NDArray[np.float64] | float:
        """Intercepts, shape (q,), or one number for a one-dimensional y."""
        return float(self.map_.bias[0]) if self._one_dimensional else self.map_.bias

    @property
    def _n_features_out(self) -> int:
        return self.map_.target.dim

    def _solve(self) -> LinearMap:
        return solve(self.moments_, *_NAMES, intercept=self.fit_intercept, ridge=self.ridge)

    def _accumulate(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> Moments:
        rows, targets = validate_data(
            self, X, y, reset=reset, dtype=_FLOATS, multi_output=True, y_numeric=True
        )
        outputs = 1 if targets.ndim == 1 else targets.shape[1]
        if not reset and outputs != self.moments_.spaces[1].dim:
            raise WidthMismatchError(
                f"partial_fit: y of {outputs} outputs given, earlier ones had "
                f"{self.moments_.spaces[1].dim}"
            )
        is_flat = targets.ndim == 1
        if targets.dtype not in _FLOATS:
            targets = targets.astype(np.float64)
        moments = accumulate(
            [rows, targets.reshape(len(rows), -1)],
            names=_NAMES,
            maps=[_NAMES],
            weights=sample_weight,
            precision=self.precision,
        )
        assert isinstance(moments, Moments)
        self._one_dimensional: bool = is_flat
        return moments
