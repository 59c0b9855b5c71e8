"""Kernels on resident blocks: rows per second of each step of the accumulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossgram.accumulator import Accumulator
from crossgram.kernels import numpy as kernels
from crossgram.moments import Moments
from crossgram.spaces import Space, map_pairs

ROWS, DIM = 4096, 512


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gram(benchmark: Any, rows: np.ndarray, dtype: type) -> None:
    z, out = rows.astype(dtype), np.zeros((DIM, DIM))
    benchmark(kernels.add_gram, z, out, None if dtype is np.float64 else np.zeros_like(out, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross(benchmark: Any, rows: np.ndarray, dtype: type) -> None:
    z, out = rows.astype(dtype), np.zeros((DIM, DIM))
    scratch = None if dtype is np.float64 else np.zeros_like(out, dtype)
    benchmark(kernels.add_cross, z, z, out, scratch)


def test_centre_and_cast(benchmark: Any, rows: np.ndarray) -> None:
    benchmark(kernels.centre, rows, rows.mean(axis=0, dtype=np.float64), np.empty(rows.shape))


def test_copy_is_the_ceiling_of_centring(benchmark: Any, rows: np.ndarray) -> None:
    benchmark(np.copyto, np.empty(rows.shape), rows)


def test_accumulator(benchmark: Any, rows: np.ndarray) -> None:
    spaces = (Space("a", DIM), Space("b", DIM))
    accumulator = Accumulator(spaces, map_pairs(spaces, [("a", "b")]))
    benchmark(accumulator.add, [rows, rows])


def test_merge(benchmark: Any, rows: np.ndarray) -> None:
    moments = Moments({"a": DIM, "b": DIM})
    moments.update(rows, rows)
    benchmark(moments.merge, moments)
