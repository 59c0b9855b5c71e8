"""Pairs of float64 numbers hold sums and products to about 100 bits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import moderate, seeds

from crossgram.double_double import Pair, add, product, split, times, two_sum

ROUNDING = Fraction(1, 2**100)


def exact(values: np.ndarray) -> list[Any]:
    return [Fraction(value) for value in values.ravel().tolist()]


def value(pair: Pair) -> list[Fraction]:
    return [high + low for high, low in zip(*map(exact, pair), strict=True)]


def numbers(seed: int, count: int = 50) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(count) * 10.0 ** rng.integers(-30, 30, size=count)


@moderate
@given(seeds)
def test_sums_and_products_of_two_numbers_are_exact(seed: int) -> None:
    a, b = numbers(seed), numbers(seed + 1)
    assert value(two_sum(a, b)) == [p + q for p, q in zip(exact(a), exact(b), strict=True)]
    assert value(times(a, b)) == [p * q for p, q in zip(exact(a), exact(b), strict=True)]


@moderate
@given(seeds)
def test_sums_of_pairs_are_good_to_100_bits(seed: int) -> None:
    first, second = (two_sum(numbers(seed + k), 1e-17 * numbers(seed + k + 7)) for k in range(2))
    for found, p, q in zip(value(add(first, second)), value(first), value(second), strict=True):
        assert abs(found - (p + q)) <= ROUNDING * (abs(p) + abs(q))


@moderate
@given(seeds, st.sampled_from([1, 2, 3, 100, 1024]))
def test_products_of_matrices_are_good_to_100_bits(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, 2)) * 10.0 ** rng.integers(-3, 3, size=(k, 1))
    b = rng.standard_normal((k, 2)) * 10.0 ** rng.integers(-9, 9, size=(1, 2))
    found = value(product(a, b))
    for i in range(2):
        for j in range(2):
            pairs = list(zip(exact(a[:, i]), exact(b[:, j]), strict=True))
            scale = k * Fraction(np.abs(a[:, i]).max()) * Fraction(np.abs(b[:, j]).max())
            assert abs(found[2 * i + j] - sum(p * q for p, q in pairs)) <= ROUNDING * scale


def test_a_sum_that_cancels_in_float64_keeps_what_is_left() -> None:
    high, low = product(np.array([[1e16], [1.0], [-1e16]]), np.array([[1.0], [1e-16], [1.0]]))
    # of products of 1e16, 2⁻¹⁰⁰ is a fourteenth digit of 1e-16
    assert (high + low).item() == pytest.approx(1e-16, rel=1e-13)


def test_values_wider_than_float64_are_split_and_others_are_not() -> None:
    third = np.array([1.0], np.longdouble) / 3
    high, low = split(third)
    assert high == 1 / 3
    if low is not None:
        assert high.astype(np.longdouble) + low == third
    assert split(np.array([1.0], np.float32))[1] is None
