"""Canonical correlations, held to QR of centred rows and to scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from numpy.typing import NDArray
from sklearn.cross_decomposition import CCA
from strategies import centred, gram_error, moderate, moments_of, orthogonal, related_spaces, seeds

from crossgram import InputError
from crossgram.cca import (
    CanonicalCorrelations,
    canonical_correlations,
    principal_whitening,
    whiten,
)

Rows = NDArray[np.float64]


def found_in(x: Rows, y: Rows, regularization: float = 0.0) -> CanonicalCorrelations:
    moments = moments_of([x, y])
    spaces = [whiten(moments, name, regularization=regularization) for name in ("a", "b")]
    return canonical_correlations(*spaces, moments.scatter("a", "b"))


def by_qr(x: Rows, y: Rows) -> tuple[NDArray[np.float64], Rows]:
    """Return the correlations, and the first space's variates as columns of length 1."""
    bases = [np.linalg.qr(centred(rows))[0] for rows in (x, y)]
    left, values, _ = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    return values, bases[0] @ left


def published_projection_weighting(x: Rows, y: Rows) -> float:
    """Return PWCCA as Morcos, Raghu and Bengio define it, on raw rows."""
    values, variates = by_qr(x, y)
    weights = [sum(abs(h @ column) for column in x.T) for h in variates.T]
    return float(np.dot(weights, values) / np.sum(weights))


@moderate
@given(related_spaces())
def test_correlations_are_those_of_orthonormal_bases_of_the_centred_rows(
    blocks: list[Rows],
) -> None:
    expected, _ = by_qr(*blocks)
    found = found_in(*blocks).correlations
    np.testing.assert_allclose(found, expected, rtol=0, atol=gram_error(*blocks))


def test_correlations_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(400, 3))
    x = common @ rng.normal(size=(3, 5)) + rng.normal(size=(400, 5))
    y = common @ rng.normal(size=(3, 3)) + rng.normal(size=(400, 3))
    model = CCA(n_components=3, max_iter=100_000, tol=1e-14).fit(x, y)
    scores = model.transform(x, y)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores[0].T, scores[1].T, strict=True)]
    # its power iteration stops at changes of 1e-14 in squares of weights
    np.testing.assert_allclose(found_in(x, y).correlations, expected, rtol=0, atol=1e-7)


@moderate
@given(related_spaces())
def test_projection_weighting_is_the_published_one_of_raw_rows(blocks: list[Rows]) -> None:
    x, y = blocks
    found = found_in(x, y)
    # weights move with the variates, by the error over the gap between correlations, and the
    # correlations that they weigh differ by no more than that gap: their mean moves by the error
    allowed = 100 * gram_error(x, y)
    assert found.projection_weighted() == pytest.approx(
        published_projection_weighting(x, y), abs=allowed
    )
    assert found.swapped().projection_weighted() == pytest.approx(
        published_projection_weighting(y, x), abs=allowed
    )


def test_loadings_are_inner_products_of_unit_variates_with_the_centred_columns() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(size=(300, 3)) * [3, 1, 0.3]
    x = np.column_stack([common + rng.normal(size=(300, 3)), rng.normal(size=300)]) + 1
    y = common + rng.normal(size=(300, 3))
    found, (values, variates) = found_in(x, y), by_qr(x, y)
    # variates turn by no more than the error over the gap between their correlations
    allowed = gram_error(x, y) / np.abs(np.diff(values)).min() * np.linalg.norm(centred(x))
    expected = np.abs(variates.T @ centred(x))
    np.testing.assert_allclose(np.abs(found.first_loadings), expected, rtol=0, atol=allowed)


@moderate
@given(related_spaces(), seeds)
def test_invertible_maps_of_either_space_leave_the_correlations(
    blocks: list[Rows], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mapped = []
    for block in blocks:
        dim = block.shape[1]
        stretch = orthogonal(rng, dim) * rng.uniform(0.3, 3, size=dim) @ orthogonal(rng, dim)
        mapped.append(block @ stretch + rng.normal(size=dim))
    found, expected = found_in(*mapped).correlations, found_in(*blocks).correlations
    allowed = gram_error(*blocks) + gram_error(*mapped)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("added", ["repeated column", "sum of columns", "constant column"])
def test_columns_that_add_nothing_change_nothing(added: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)) + 2
    y = x[:, :3] @ rng.normal(size=(3, 3)) + rng.normal(size=(200, 3))
    column = {
        "repeated column": x[:, 1],
        "sum of columns": x[:, 0] + 3 * x[:, 2],
        "constant column": np.full(200, 7.3),
    }[added]
    plain, wider = found_in(x, y), found_in(np.column_stack([x, column]), y)
    assert len(wider.correlations) == 3
    # left out are directions shorter than about 1e-7 of the rest, which carry that much noise
    np.testing.assert_allclose(wider.correlations, plain.correlations, rtol=0, atol=1e-7)
    assert whiten(moments_of([np.column_stack([x, column])]), "a").rank == 4


def test_whitened_rows_are_uncorrelated_and_of_length_one() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 5))
    whitened = whiten(moments_of([x]), "a")
    coordinates = centred(x) @ whitened.matrix.T
    np.testing.assert_allclose(coordinates.T @ coordinates, np.eye(5), atol=gram_error(x))
    assert whitened.condition == pytest.approx(
        np.linalg.cond(centred(x) / np.linalg.norm(centred(x), axis=0))
    )


class TestRegularization:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 6)) * 3
    y = x[:, :4] + 5 * rng.normal(size=(60, 4))

    def test_adds_a_share_of_the_mean_variance_to_every_direction(self) -> None:
        roots = []
        for rows in (self.x, self.y):
            scatter = centred(rows).T @ centred(rows)
            ridge = 0.3 * np.trace(scatter) / len(scatter)
            roots.append(scipy.linalg.sqrtm(np.linalg.inv(scatter + ridge * np.eye(len(scatter)))))
        product = roots[0] @ centred(self.x).T @ centred(self.y) @ roots[1]
        expected = np.linalg.svd(product, compute_uv=False)
        found = found_in(self.x, self.y, 0.3).correlations
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_is_invariant_to_rotations_and_scale(self) -> None:
        rng = np.random.default_rng(4)
        turned = 7 * self.x @ orthogonal(rng, 6), 0.01 * self.y @ orthogonal(rng, 4)
        found, expected = found_in(*turned, 0.3), found_in(self.x, self.y, 0.3)
        np.testing.assert_allclose(found.correlations, expected.correlations, rtol=1e-9)

    @pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
    def test_that_is_none_is_refused(self, value: float) -> None:
        with pytest.raises(InputError, match="regularization: .* expected a finite number"):
            whiten(moments_of([self.x]), "a", regularization=value)


class TestPrincipalWhitening:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 6)) @ np.diag([9, 4, 2, 1, 0.1, 0.01]) @ orthogonal(rng, 6)

    @pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 0.9999, 1.0])
    def test_keeps_the_fewest_directions_with_the_share(self, variance: float) -> None:
        left, values, _ = np.linalg.svd(centred(self.x), full_matrices=False)
        shares = np.cumsum(values**2) / np.sum(values**2)
        kept = 6 if variance == 1 else int(np.argmax(shares >= variance)) + 1
        found = principal_whitening(moments_of([self.x]), "a", variance)
        assert found.shape == (kept, 6)
        coordinates = centred(self.x) @ found.T
        # condition 1e3: products of the weakest coordinates keep 16 - 6 digits
        np.testing.assert_allclose(np.abs(left[:, :kept].T @ coordinates), np.eye(kept), atol=1e-8)

    def test_leaves_rounding_out_of_the_whole(self) -> None:
        repeated = np.column_stack([self.x, self.x])
        assert len(principal_whitening(moments_of([repeated]), "a", 1.0)) == 6

    @pytest.mark.parametrize("value", [0.0, -1.0, 1.1, float("nan")])
    def test_of_a_share_that_is_none_is_refused(self, value: float) -> None:
        with pytest.raises(InputError, match="variance: .* expected a share above 0"):
            principal_whitening(moments_of([self.x]), "a", value)
