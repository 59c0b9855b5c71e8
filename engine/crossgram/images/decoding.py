"""From the bytes of an image file to its pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError

try:
    from PIL import Image, JpegImagePlugin, UnidentifiedImageError
except ImportError as error:
    raise InputError(
        "images: decoding them needs Pillow; pip install 'crossgram[extract]'"
    ) from error

__all__ = ["MAX_PIXELS", "SHRUNK", "SUFFIXES", "UnusableImageError", "decode"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, of the files that count as images."""

MAX_PIXELS = 1 << 26
"""No image is decoded to more; a JPEG with more is decoded at a half, a quarter or an eighth."""

SHRUNK = "shrunk"
"""A decoded image's `info` says by this name how many times smaller its sides were made."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What is decoded: formats of pixels only, none that runs a program."""

_MODES = {1: "L", 3: "RGB"}
_DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_JPEG_START = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImageError(Exception):
    """Why one image cannot be embedded; never leaves the library."""


def decode(data: bytes | NDArray[np.uint8], channels: int) -> Image.Image:
    """Return an image upright, as RGB or grey of 8 bits.

    Of an animation the first picture is taken; transparency is dropped; 16 bits are brought to 8.

    Parameters
    ----------
    data : bytes, or ndarray of uint8, shape (h, w) or (h, w, 1 or 3)
        A file's contents, or the pixels.
    channels : {1, 3}
        Grey or RGB.

    Raises
    ------
    UnusableImageError
        With the reason, if it cannot be decoded.
    """
    if isinstance(data, np.ndarray):
        pixels = data[..., 0] if data.ndim == 3 and data.shape[-1] == 1 else data
        return Image.fromarray(np.ascontiguousarray(pixels)).convert(_MODES[channels])
    if not data:
        raise UnusableImageError("the file is empty")
    try:
        with _open(data) as image:
            factor = _shrink(image) if image.width * image.height > MAX_PIXELS else 1
            image.load()
            decoded = _eight_bits(_upright(image)).convert(_MODES[channels])
            decoded.info = {SHRUNK: factor}
            return decoded
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError("cannot be decoded: in no image format that is known") from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnusableImageError(
            f"cannot be decoded: {str(error) or type(error).__name__}"
        ) from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow refuses it by its size, before it is known that it can be decoded smaller
        if data.startswith(_JPEG_START):
            return JpegImagePlugin.JpegImageFile(BytesIO(data))
        raise UnusableImageError(f"has more than {MAX_PIXELS:,} pixels") from error


def _shrink(image: Image.Image) -> int:
    """Have a JPEG decoded at a half, a quarter or an eighth, and return how many times smaller."""
    width, height = image.size
    # a progressive one is held whole before it is made smaller
    if isinstance(image, JpegImagePlugin.JpegImageFile) and not image.info.get("progressive"):
        for factor in (2, 4, 8):
            if -(-width // factor) * -(-height // factor) <= MAX_PIXELS:
                image.draft(None, (width // factor, height // factor))
                return factor
    raise UnusableImageError(f"has {width} x {height} pixels, at most {MAX_PIXELS:,} are decoded")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (damaged EXIF data fail in many ways; the pixels are whole)
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImageError(f"has values beyond 16 bits (mode {image.mode})")
        wide = values.astype(np.uint32)
        wide += 128
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8))
    if image.mode == "F":
        raise UnusableImageError("has floating-point values, whose range is not known")
    return image
