"""Two spaces of ten segments, and what it means that moments are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import crossgram as cg

ROWS, SEGMENT = 150_000, 16_384


def write_stores(folder: Path) -> list[Path]:
    """Write a.zarr, of 12 columns, and b.zarr, of 7, with ids and the labels of 997 people."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, size=(ROWS, 12)).astype("f4")
    y = (x @ rng.normal(size=(12, 7)) + rng.normal(size=(ROWS, 7))).astype("f4")
    for name, rows in (("a", x), ("b", y)):
        with cg.EmbeddingStore.create(folder / f"{name}.zarr", dim=rows.shape[1]) as writer:
            ids = [f"{k}" for k in range(ROWS)]
            writer.append(rows, ids=ids, labels=[f"p{k % 997}" for k in range(ROWS)])
    return [folder / "a.zarr", folder / "b.zarr"]


def assert_same_bits(found: Any, expected: Any) -> None:
    """Hold moments, or folds of them, against others, to the last bit."""
    folds = getattr(found, "folds", (found,)), getattr(expected, "folds", (expected,))
    for one, other in zip(*folds, strict=True):
        (tensors, facts), (wanted, known) = one.to_parts(), other.to_parts()
        assert tensors.keys() == wanted.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, wanted[name])
        assert facts["rows"] == known["rows"]
