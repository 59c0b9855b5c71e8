"""The images of the demonstration: scikit-learn's handwritten digits, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossgram.images import Recipe

__all__ = ["RECIPE", "Digits", "load_digits"]

_GREY_STEP = 15
_HELD_OUT_SHARE = 1 / 3

RECIPE = Recipe(size=(8, 8), channels=1, mean=(0.3,), scale=(0.35,))
"""Rounded mean and standard deviation of the digits' grey values."""


@dataclass(frozen=True)
class Digits:
    """Small grey images of handwritten digits.

    Attributes
    ----------
    images : ndarray, shape (1797, 8, 8), uint8
        Grey values; the 17 levels of the original are multiples of 15.
    labels : ndarray, shape (1797,), int64
        Which digit it is.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def split(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the images to learn from, and of a third held out per digit."""
        generator = np.random.default_rng(seed)
        held_out = []
        for digit in np.unique(self.labels):
            shuffled = generator.permutation(np.flatnonzero(self.labels == digit))
            held_out.append(shuffled[: round(len(shuffled) * _HELD_OUT_SHARE)])
        test = np.sort(np.concatenate(held_out))
        return np.setdiff1d(np.arange(len(self.labels)), test), test

    def write(self, folder: Path, parts: Mapping[str, NDArray[np.int64]]) -> None:
        """Write images as `folder/part/digit/number.png`; `parts` has the numbers of each."""
        for part, numbers in parts.items():
            for number in numbers:
                file = folder / part / str(self.labels[number]) / f"{number:04}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(self.images[number]).save(file)


def load_digits() -> Digits:
    """Return the 1,797 digits that come with scikit-learn."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = (bunch.images * _GREY_STEP).astype(np.uint8)
    return Digits(images, bunch.target.astype(np.int64))
