"""A benchmark beside its ceiling: what the machine does at best, in the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from forms import FORM
from machine import timed

from crossgram.kernels import blas

__all__ = ["Ceiling", "gemm", "measure"]

_MOST_ROUNDS = 200


@dataclass(frozen=True)
class Ceiling:
    """Work that bounds a benchmark.

    Attributes
    ----------
    name : str
        What it is.
    seconds : callable
        Does it once, and returns how long it took.
    amount : float
        How much that is, in what the benchmark's rate counts.
    """

    name: str
    seconds: Callable[[], float]
    amount: float


def measure(
    benchmark: Any,
    run: Callable[[], object],
    amounts: Mapping[str, float],
    ceiling: Ceiling,
) -> None:
    """Measure a benchmark, and before each of its rounds the ceiling.

    Parameters
    ----------
    benchmark : BenchmarkFixture
        Of pytest-benchmark; its `extra_info` gets the amounts and the ceiling's rate.
    run : callable
        What is measured.
    amounts : mapping of str to float
        What a run goes through: flops, bytes, rows and the like; the rate counts the first.
    ceiling : Ceiling
        What is measured beside it.
    """
    bounds: list[float] = []

    def bound() -> None:
        bounds.append(ceiling.seconds())

    def both() -> float:
        return ceiling.seconds() + timed(run)

    # the first may load what it needs
    seconds = both()
    if seconds < FORM.seconds:
        seconds = both()
    rounds = max(FORM.rounds, min(_MOST_ROUNDS, int(FORM.seconds / seconds)))
    benchmark.pedantic(run, setup=bound, rounds=rounds)
    benchmark.extra_info.update(
        amounts,
        rate_of=next(iter(amounts)),
        ceiling=ceiling.amount / median(bounds),
        ceiling_name=ceiling.name,
    )


def gemm(dtype: type) -> Ceiling:
    """Return the product of resident squares, in flops: the highest rate of all."""
    size = FORM.square
    square = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    out = np.zeros_like(square)
    name = f"{'dgemm' if dtype is np.float64 else 'sgemm'} of {size:,} x {size:,}"
    return Ceiling(name, partial(timed, partial(blas.gemm, square, square, out)), 2 * size**3)
