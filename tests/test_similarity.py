"""CKA and Procrustes distance, held to their definitions on centred rows."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from numpy.typing import NDArray
from strategies import EPSILON, centred, moderate, moments_of, orthogonal, related_spaces, seeds

from crossgram.moments import Moments
from crossgram.similarity import linear_cka, procrustes_distance, unbiased_linear_cka

Rows = NDArray[np.float64]
# ratios of sums of up to 120 x 6 x 6 products: an ε each, and a square root of the two spaces'
ROUNDING = 1e4 * EPSILON
# where those sums are differences of larger ones: n / (n - 3) and traces against norms, below 1e3
DIFFERENCE = 1e3 * ROUNDING


def of(*blocks: NDArray[Any]) -> Moments:
    return moments_of(blocks, norms=True)


def gram_cka(x: Rows, y: Rows) -> float:
    """Return CKA by n x n Gram matrices, centred on both sides."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, m = (centring @ rows @ rows.T @ centring for rows in (x, y))
    return float(np.sum(k * m) / (np.linalg.norm(k) * np.linalg.norm(m)))


def kernel_hsic(x: Rows, y: Rows) -> float:
    """Return HSIC_1 by its definition in kernel matrices with zeros on the diagonal."""
    n = len(x)
    k, m = (rows @ rows.T for rows in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3)))


def statistic_hsic(x: Rows, y: Rows) -> float:
    """Return HSIC_1 as the U-statistic that it is: a mean over all ordered quadruples of rows."""
    k, m = x @ x.T, y @ y.T
    return float(
        np.mean(
            [
                k[s, t] * (m[s, t] + m[u, v] - 2 * m[s, u])
                for s, t, u, v in permutations(range(len(x)), 4)
            ]
        )
    )


def aligned(hsic: Any, x: Rows, y: Rows) -> float:
    return float(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


@moderate
@given(related_spaces())
def test_cka_is_that_of_the_gram_matrices_of_rows(blocks: list[Rows]) -> None:
    assert linear_cka(of(*blocks), "a", "b") == pytest.approx(gram_cka(*blocks), abs=ROUNDING)


@moderate
@given(related_spaces())
def test_unbiased_cka_is_that_of_kernels_without_their_diagonals(blocks: list[Rows]) -> None:
    expected = aligned(kernel_hsic, *(centred(block) for block in blocks))
    assert unbiased_linear_cka(of(*blocks), "a", "b") == pytest.approx(expected, abs=DIFFERENCE)


@pytest.mark.parametrize("rows", [4, 5, 8])
def test_unbiased_cka_is_that_of_the_u_statistic(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 3))
    y = x[:, :2] + rng.normal(size=(rows, 2))
    expected = aligned(statistic_hsic, x, y)
    assert unbiased_linear_cka(of(x, y), "a", "b") == pytest.approx(expected, abs=DIFFERENCE)


@moderate
@given(related_spaces())
def test_procrustes_distance_is_what_the_best_rotation_leaves(blocks: list[Rows]) -> None:
    width = max(block.shape[1] for block in blocks)
    scaled = []
    for block in blocks:
        padded = np.pad(centred(block), ((0, 0), (0, width - block.shape[1])))
        scaled.append(padded / np.linalg.norm(padded))
    rotation, _ = scipy.linalg.orthogonal_procrustes(*scaled)
    expected = np.linalg.norm(scaled[0] @ rotation - scaled[1]) ** 2
    found = procrustes_distance(of(*blocks), "a", "b")
    assert found == pytest.approx(float(expected), abs=ROUNDING)


@moderate
@given(related_spaces(), seeds)
def test_rotations_scale_and_shift_change_nothing(blocks: list[Rows], seed: int) -> None:
    rng = np.random.default_rng(seed)
    turned = [
        rng.uniform(0.1, 10) * block @ orthogonal(rng, block.shape[1]) + rng.normal()
        for block in blocks
    ]
    plain, changed = of(*blocks), of(*turned)
    for measure in (linear_cka, procrustes_distance):
        assert measure(changed, "a", "b") == pytest.approx(measure(plain, "a", "b"), abs=ROUNDING)
    assert unbiased_linear_cka(changed, "a", "b") == pytest.approx(
        unbiased_linear_cka(plain, "a", "b"), abs=DIFFERENCE
    )


@moderate
@given(related_spaces())
def test_are_symmetric_and_within_their_ranges(blocks: list[Rows]) -> None:
    moments = of(*blocks)
    for measure, top in ((linear_cka, 1), (procrustes_distance, 2)):
        value = measure(moments, "a", "b")
        assert measure(moments, "b", "a") == pytest.approx(value, abs=ROUNDING)
        assert 0 <= value <= top
    there, back = (unbiased_linear_cka(moments, *pair) for pair in (("a", "b"), ("b", "a")))
    assert there == pytest.approx(back, abs=DIFFERENCE)


@moderate
@given(related_spaces())
def test_a_space_is_its_own_likeness(blocks: list[Rows]) -> None:
    moments = of(blocks[0], blocks[0])
    assert linear_cka(moments, "a", "b") == pytest.approx(1, abs=ROUNDING)
    assert unbiased_linear_cka(moments, "a", "b") == pytest.approx(1, abs=DIFFERENCE)
    assert procrustes_distance(moments, "a", "b") == pytest.approx(0, abs=ROUNDING)


def test_few_rows_of_unrelated_spaces_raise_cka_but_not_its_unbiased_form() -> None:
    rng = np.random.default_rng(0)
    found = of(rng.normal(size=(60, 120)), rng.normal(size=(60, 120)))
    assert linear_cka(found, "a", "b") > 0.6
    # HSIC_1 of unrelated rows is 0 in the mean, and here 1/60 or so beside that of either space
    assert abs(unbiased_linear_cka(found, "a", "b") or np.nan) < 0.1


def test_large_means_cost_no_digits() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, size=(200, 3)).astype(float)
    y = x[:, :2] + rng.integers(-2, 3, size=(200, 2))
    expected = aligned(kernel_hsic, centred(x), centred(y))
    found = unbiased_linear_cka(of(x + 2.0**20, y - 2.0**20), "a", "b")
    assert found == pytest.approx(expected, abs=DIFFERENCE)


@pytest.mark.parametrize("factor", [1e-60, 1e60])
def test_scale_neither_over_nor_underflows(factor: float) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    plain, scaled = of(x, y), of(factor * x, y / factor)
    for measure in (linear_cka, unbiased_linear_cka, procrustes_distance):
        assert measure(scaled, "a", "b") == pytest.approx(measure(plain, "a", "b"), abs=DIFFERENCE)


@pytest.mark.parametrize(
    "rows",
    [np.random.default_rng(3).normal(size=(3, 2)), np.eye(7)],
    ids=["three rows", "all equally far from each other"],
)
def test_unbiased_cka_of_rows_that_say_nothing_is_none(rows: Rows) -> None:
    assert unbiased_linear_cka(of(rows, rows), "a", "b") is None


def test_unbiased_cka_without_norms_is_none() -> None:
    rows = np.random.default_rng(4).normal(size=(20, 2))
    assert unbiased_linear_cka(moments_of([rows, rows]), "a", "b") is None
