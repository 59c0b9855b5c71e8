"""From a decoded image to the pixels that a network takes: cut, aligned, resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossgram.images.decoding import SHRUNK, UnusableImageError
from crossgram.images.recipe import Recipe

__all__ = ["pixels_of", "similarity"]

_TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
"""Eyes, nose and corners of the mouth in a crop of 112 x 112 (insightface, face_align.py)."""

_TEMPLATE_SIDE = 112
_LONGEST = 8
_FARTHEST = 1e9

_Box = tuple[float, float, float, float]


def pixels_of(
    image: Image.Image,
    recipe: Recipe,
    box: Sequence[float] | None = None,
    landmarks: Sequence[float] | None = None,
) -> NDArray[np.uint8]:
    """Return what a recipe takes of an image, shape (height, width, channels).

    Parameters
    ----------
    image : Image
        Of as many channels as the recipe has.
    recipe : Recipe
    box : sequence of 4 float, optional
        Left, top, right, bottom, in pixels of the image as it is stored.
    landmarks : sequence of 10 float, optional
        x and y of left eye, right eye, nose, left and right corner of the mouth, as the viewer
        sees them, the centre of the first pixel being (0, 0).

    Raises
    ------
    UnusableImageError
        If the recipe needs a box or landmarks and there are none that can be used.
    """
    resample = Image.Resampling[recipe.interpolation.upper()]
    height, width = recipe.size
    match recipe.crop:
        case "centre":
            cut = _centre(image, recipe, resample)
        case "box":
            cut = _stretched(image, (width, height), resample, _widened(image, box, recipe.margin))
        case "align":
            cut = _aligned(image, recipe, landmarks, resample)
        case _:
            cut = _stretched(image, (width, height), resample)
    pixels: NDArray[np.uint8] = np.asarray(cut).reshape(height, width, recipe.channels)
    return pixels[..., ::-1] if recipe.order == "bgr" else pixels


def similarity(
    points: NDArray[np.float64], onto: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rotation with scale A (2, 2) and shift t (2,) that best take points onto others.

    Notes
    -----
    Minimises sum |A x + t - y|² over similarities without a reflection (Umeyama 1991, eqs. 40-42).
    """
    centre, target = points.mean(axis=0), onto.mean(axis=0)
    x, y = points - centre, onto - target
    u, singular, vt = np.linalg.svd(y.T @ x)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = (u * signs) @ vt * (singular @ signs / (x**2).sum())
    return linear, target - linear @ centre


def _stretched(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: _Box | None = None,
) -> Image.Image:
    if image.size == size and box is None:
        return image
    return image.resize(size, resample, box)


def _centre(image: Image.Image, recipe: Recipe, resample: Image.Resampling) -> Image.Image:
    height, width = recipe.size
    short = recipe.resize or max(height, width)
    image = _without_ends(image)
    # the longer side is cut to whole pixels, as torchvision does
    longer = int(short * max(image.size) / min(image.size))
    size = (short, longer) if image.width <= image.height else (longer, short)
    if image.size != size:
        image = image.resize(size, resample)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _without_ends(image: Image.Image) -> Image.Image:
    """Cut what a centre would never show of a long strip, which resized whole would be huge."""
    most = _LONGEST * min(image.size)
    left, top = (max(0, (side - most) // 2) for side in image.size)
    if not left and not top:
        return image
    return image.crop((left, top, image.width - left, image.height - top))


def _widened(image: Image.Image, box: Sequence[float] | None, margin: float) -> _Box:
    if box is None:
        raise UnusableImageError("has no box, and the recipe cuts by it")
    left, top, right, bottom = (side / image.info.get(SHRUNK, 1) for side in box)
    across, down = margin * (right - left) / 2, margin * (bottom - top) / 2
    cut = (
        max(0.0, left - across),
        max(0.0, top - down),
        min(float(image.width), right + across),
        min(float(image.height), bottom + down),
    )
    if not (np.isfinite(box).all() and cut[2] - cut[0] >= 1 and cut[3] - cut[1] >= 1):
        raise UnusableImageError(
            f"its box {tuple(box)} shows less than a pixel of {image.width} x {image.height}"
        )
    return cut


def _aligned(
    image: Image.Image,
    recipe: Recipe,
    landmarks: Sequence[float] | None,
    resample: Image.Resampling,
) -> Image.Image:
    if landmarks is None:
        raise UnusableImageError("has no landmarks, and the recipe aligns by them")
    factor = image.info.get(SHRUNK, 1)
    points = (np.array(landmarks, float).reshape(5, 2) + 0.5) / factor - 0.5
    if not (np.abs(points).max() < _FARTHEST and np.ptp(points, axis=0).max() >= 1):
        raise UnusableImageError("its landmarks are not five points of a face")
    height, width = recipe.size
    ratio = height / _TEMPLATE_SIDE
    template = _TEMPLATE * ratio + ((width - _TEMPLATE_SIDE * ratio) / 2, 0)
    linear, shift = similarity(points, template)
    back = np.linalg.inv(linear)
    # Pillow counts from the corner of the first pixel, landmarks from its centre
    offset = back @ (-0.5 - shift) + 0.5
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    # Pillow knows no Lanczos for transforms
    own = Image.Resampling.BICUBIC if resample == Image.Resampling.LANCZOS else resample
    return image.transform((width, height), Image.Transform.AFFINE, coefficients, own)
