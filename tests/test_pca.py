"""Principal components and whitening from moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from strategies import moderate, moments_of, paired_rows, seeds

import crossgram as cg

Matrix = NDArray[np.float64]


def rows_of(seed: int = 0, rows: int = 300, dim: int = 6) -> Matrix:
    return paired_rows(seed, rows, dim, 1)[0]


def components_of(x: Matrix, **options: Any) -> cg.PrincipalComponents:
    return cg.principal_components(moments_of([x], **options), "a")


class TestComponents:
    @given(seeds, st.integers(1, 6))
    @moderate
    def test_are_those_of_scikit_learn(self, seed: int, dim: int) -> None:
        x = rows_of(seed, 60, dim)
        expected = PCA(svd_solver="full").fit(x)
        found = components_of(x)
        largest = expected.explained_variance_[0]
        np.testing.assert_allclose(
            found.variances, expected.explained_variance_, atol=1e-12 * largest
        )
        np.testing.assert_allclose(found.explained, expected.explained_variance_ratio_, atol=1e-12)
        gaps = -np.diff(expected.explained_variance_, prepend=2 * largest, append=-largest)
        known = np.minimum(gaps[:-1], gaps[1:]) > 1e-4 * largest
        # eigenvectors err by ε times the largest value over the gap, and a sign is one of two
        np.testing.assert_allclose(
            np.abs(found.components[known]), np.abs(expected.components_[known]), atol=1e-9
        )

    def test_point_where_their_largest_entry_is_positive(self) -> None:
        x = rows_of()
        np.testing.assert_allclose(
            components_of(x).components, PCA(svd_solver="full").fit(x).components_, atol=1e-10
        )

    def test_of_weighted_rows_do_not_depend_on_the_scale_of_weights(self) -> None:
        x = rows_of()
        plain = components_of(x)
        np.testing.assert_allclose(
            components_of(x, weights=np.full(len(x), 1e-3)).variances, plain.variances, rtol=1e-11
        )

    @pytest.mark.parametrize("constant", [0.0, 1e8 + 0.1])
    def test_tell_the_rank(self, constant: float) -> None:
        x = rows_of()
        widened = np.column_stack([x, x[:, 0] - x[:, 1], np.full(len(x), constant)])
        assert components_of(widened).rank == 6
        assert components_of(x).rank == 6
        assert components_of(x[:3]).rank == 2
        assert components_of(np.full((9, 2), constant)).rank == 0


class TestProjection:
    @pytest.mark.parametrize("rank", [1, 4, 6, None])
    def test_is_that_of_scikit_learn(self, rank: int | None) -> None:
        x = rows_of()
        found = components_of(x).projection(rank)
        expected = PCA(rank, svd_solver="full").fit_transform(x)
        np.testing.assert_allclose(found.apply(x), expected, atol=1e-9)
        assert (found.source.name, found.target) == ("a", cg.Space("a-pca", rank or 6))
        assert found.certificate is None

    def test_keeps_whether_rows_are_normalized(self) -> None:
        x = rows_of()
        moments = cg.accumulate([x], names=["a"], normalize=True)
        found = cg.principal_components(moments).projection(2)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        expected = PCA(2, svd_solver="full").fit_transform(unit)
        np.testing.assert_allclose(found.apply(x), expected, atol=1e-10)


class TestWhitening:
    @pytest.mark.parametrize("rank", [1, 4, None])
    def test_is_that_of_scikit_learn(self, rank: int | None) -> None:
        x = rows_of()
        found = components_of(x).whitening(rank)
        expected = PCA(rank, svd_solver="full", whiten=True).fit_transform(x)
        np.testing.assert_allclose(found.apply(x), expected, atol=1e-8)
        assert found.target == cg.Space("a-white", rank or 6)

    @given(seeds, st.booleans())
    @moderate
    def test_leaves_the_identity_for_a_covariance(self, seed: int, zca: bool) -> None:
        x = rows_of(seed, 80, 4)
        white = components_of(x).whitening(zca=zca).apply(x)
        condition = np.linalg.cond(np.cov(x.T))
        np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-14 * condition + 1e-12)
        np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=1e-14 * condition + 1e-12)

    @pytest.mark.parametrize("epsilon", [0.0, 0.5])
    def test_zca_is_the_inverse_root_of_the_covariance(self, epsilon: float) -> None:
        x = rows_of()
        found = components_of(x).whitening(epsilon=epsilon, zca=True)
        expected = fractional_matrix_power(np.cov(x.T) + epsilon * np.eye(6), -0.5)
        np.testing.assert_allclose(found.weight, expected, atol=1e-9)
        np.testing.assert_allclose(found.bias, -expected @ x.mean(axis=0), atol=1e-9)

    def test_zca_of_some_components_stays_in_the_space(self) -> None:
        x = rows_of()
        components = components_of(x)
        found = components.whitening(2, zca=True)
        assert found.target == cg.Space("a-white", 6)
        expected = components.components[:2].T @ components.whitening(2).apply(x).T
        np.testing.assert_allclose(found.apply(x).T, expected, atol=1e-12)

    def test_of_directions_without_variance_needs_an_epsilon_or_a_rank(self) -> None:
        x = rows_of()
        components = components_of(np.column_stack([x, x[:, 0]]))
        with pytest.raises(cg.InputError, match="vary along 6 of 7 directions only; give a rank"):
            components.whitening()
        assert np.isfinite(components.whitening(epsilon=1e-3).weight).all()
        white = components.whitening(6).apply(np.column_stack([x, x[:, 0]]))
        np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-10)

    def test_is_saved_as_any_map_is(self, tmp_path: Path) -> None:
        found = components_of(rows_of()).whitening(3)
        found.save(tmp_path / "m")
        np.testing.assert_array_equal(cg.LinearMap.load(tmp_path / "m").weight, found.weight)


class TestRefused:
    @pytest.mark.parametrize("rank", [0, 7, 2.5])
    def test_a_rank_that_is_not_there(self, rank: Any) -> None:
        components = components_of(rows_of())
        for make in (components.projection, components.whitening):
            with pytest.raises(cg.InputError, match="expected a whole number from 1 to 6"):
                make(rank)

    @pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
    def test_an_epsilon_of_no_sense(self, epsilon: float) -> None:
        with pytest.raises(cg.InputError, match=r"epsilon: .* at least 0"):
            components_of(rows_of()).whitening(epsilon=epsilon)

    def test_one_row(self) -> None:
        with pytest.raises(cg.InputError, match="moments of 1 rows"):
            components_of(rows_of(rows=1))

    def test_a_block_that_was_not_kept(self) -> None:
        moments = moments_of([rows_of(), rows_of()], maps=[("a", "b")])
        with pytest.raises(cg.InputError, match="b x b was not kept"):
            cg.principal_components(moments, "b")
