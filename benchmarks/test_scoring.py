"""Scores of pairs and of searches, of rows in memory."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
import pytest
from beside import Ceiling, gemm, measure
from forms import FORM
from machine import timed

from crossgram.evaluation.binned_scores import score_all_pairs
from crossgram.evaluation.scoring import scores_of
from crossgram.evaluation.searching import Probes, search
from crossgram.source import open_source

pytestmark = pytest.mark.benchmark(group="scoring")

DIM = FORM.dim
IMAGES_OF_A_PERSON = 10
FARS = (1e-1, 1e-2, 1e-3, 1e-4)
NEAREST = 20
BLOCK_PAIRS = 4096
READINGS = 2
"""Of all pairs, which are counted, then looked at for thresholds, and of a gallery."""


def faces(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of length 1 and whom they show."""
    rng = np.random.default_rng(0)
    person = np.arange(count) // IMAGES_OF_A_PERSON
    rows = rng.standard_normal((person[-1] + 1, DIM), np.float32)[person]
    rows += rng.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), person


def test_all_pairs(benchmark: Any) -> None:
    rows, person = faces(FORM.images)
    pairs = len(rows) * (len(rows) - 1) // 2
    threads = len(os.sched_getaffinity(0))
    run = partial(score_all_pairs, rows, rows, person, FARS, ordered=False, threads=threads)
    amounts = {"flops": READINGS * 2 * DIM * pairs, "pairs": pairs}
    measure(benchmark, run, amounts, gemm(np.float32))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_listed_pairs(benchmark: Any, metric: str) -> None:
    """In float64, whose rows are gathered from all over, as copying them does."""
    rows = faces(FORM.images)[0].astype(np.float64)
    left, right = np.random.default_rng(1).integers(0, len(rows), (2, FORM.pairs))

    def gather() -> None:
        for start in range(0, len(left), BLOCK_PAIRS):
            for side in (left, right):
                rows[side[start : start + BLOCK_PAIRS]]

    amounts = {"bytes": 2 * len(left) * rows[0].nbytes, "pairs": len(left)}
    ceiling = Ceiling("gathering the rows", partial(timed, gather), amounts["bytes"])
    measure(benchmark, partial(scores_of, rows, rows, left, right, metric), amounts, ceiling)


def test_search(benchmark: Any) -> None:
    """The nearest entries of a gallery, and the rank of the mates."""
    rows, person = faces(FORM.probes + FORM.gallery)
    # a person's images lie side by side
    chosen = np.random.default_rng(1).permutation(len(rows))
    wanted, entries = chosen[: FORM.probes], chosen[FORM.probes :]
    probes = Probes(rows[wanted], person[wanted], np.full(len(wanted), -1))
    gallery, usable = open_source(rows[entries]), np.ones(len(entries), bool)
    run = partial(search, probes, gallery, person[entries], usable, NEAREST)
    pairs = len(wanted) * len(entries)
    amounts = {"flops": READINGS * 2 * DIM * pairs, "pairs": pairs}
    measure(benchmark, run, amounts, gemm(np.float32))
