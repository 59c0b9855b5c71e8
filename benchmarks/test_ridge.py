"""A ridge path from moments with folds, beside a solve for one strength."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import crossgram as cg

ROWS, DIM, FOLDS, STRENGTHS = 20_000, 512, 5, 1000


@pytest.fixture(scope="module")
def moments() -> cg.FoldedMoments:
    rng = np.random.default_rng(0)
    x, noise = (rng.standard_normal((ROWS, DIM), np.float32) for _ in range(2))
    y = x @ rng.standard_normal((DIM, DIM), np.float32) + 30 * noise
    folded = cg.accumulate([x, y], names=["a", "b"], maps=[("a", "b")], folds=FOLDS)
    assert isinstance(folded, cg.FoldedMoments)
    return folded


def test_path(benchmark: Any, moments: cg.FoldedMoments) -> None:
    strengths = np.geomspace(1e-2, 1e6, STRENGTHS)
    benchmark.pedantic(cg.ridge_path, (moments, "a", "b", strengths), rounds=5, warmup_rounds=1)


def test_default_path(benchmark: Any, moments: cg.FoldedMoments) -> None:
    benchmark.pedantic(cg.ridge_path, (moments, "a", "b"), rounds=5, warmup_rounds=1)


def test_one_strength(benchmark: Any, moments: cg.FoldedMoments) -> None:
    benchmark.pedantic(cg.solve, (moments,), {"ridge": 1.0}, rounds=5, warmup_rounds=1)
