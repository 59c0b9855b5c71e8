"""Pixels in a .npy file or a Zarr array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.errors import CrossgramError, InputError
from crossgram.images.decoding import MAX_PIXELS, UnusableImageError
from crossgram.images.entry import ImageEntry
from crossgram.source import check_npy_size, raw_reader, read_npy_header
from crossgram.zarr_io import check_array, chunk_rows, open_node, read_rows

__all__ = ["PixelArray"]

_Chunk = tuple[int, NDArray[np.uint8]]


@dataclass
class PixelArray:
    """Images of one size in an array (n, h, w) or (n, h, w, 1 or 3) of uint8; ids are numbers.

    Attributes
    ----------
    root : Path
        The array.
    """

    root: Path
    # the chunk that was read last, and its first image: images are read in order
    _held: _Chunk | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def shares_files(self) -> bool:
        """True: a file holds many images."""
        return True

    def files(self) -> Iterator[Path]:
        """Name the file, or all files of a Zarr array."""
        if _is_npy(self.root):
            return iter([self.root])
        return (path for path in self.root.rglob("*") if path.is_file())

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        return (ImageEntry(str(k), place=(k, 0)) for k in range(_shape(self.root)[0]))

    def read(self, entry: ImageEntry) -> NDArray[np.uint8]:
        """Return the pixels of an image."""
        number = entry.place[0]
        held = self._held
        if held is None or not 0 <= number - held[0] < len(held[1]):
            try:
                self._held = held = _chunk(self.root, number)
            except CrossgramError as error:
                raise UnusableImageError(str(error)) from error
        start, chunk = held
        pixels: NDArray[np.uint8] = chunk[number - start]
        return pixels


def _shape(path: Path) -> tuple[int, ...]:
    if _is_npy(path):
        shape, dtype, fortran, offset = read_npy_header(path)
        check_npy_size(path, shape, dtype, offset)
        if fortran:
            raise InputError(f"{path}: is in Fortran order; save it in C order")
    else:
        array = _array(path)
        check_array(array, str(path))
        shape, dtype = array.shape, array.dtype
    is_grey = len(shape) == 3
    if dtype != np.uint8 or not (is_grey or (len(shape) == 4 and shape[3] in (1, 3))):
        raise InputError(
            f"{path}: has shape {shape} and dtype {dtype}, expected uint8 pixels of shape (images, "
            "height, width) or (images, height, width, 1 or 3)"
        )
    if min(shape) < 1 or shape[1] * shape[2] > MAX_PIXELS:
        raise InputError(
            f"{path}: has shape {shape}, expected at least one image of at most {MAX_PIXELS:,} "
            "pixels"
        )
    return shape


def _is_npy(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _array(path: Path) -> zarr.Array[Any]:
    node = open_node(path)
    if not isinstance(node, zarr.Array):
        raise InputError(f"{path}: is a Zarr group, expected an array of pixels")
    return node


def _chunk(path: Path, number: int) -> _Chunk:
    """Return the images that are stored with one, and the number of the first."""
    if _is_npy(path):
        shape, _, _, offset = read_npy_header(path)
        pixels = np.empty((1, *shape[1:]), np.uint8)
        raw_reader(path, offset, int(np.prod(shape[1:])))(number, pixels)
        return number, pixels
    array = _array(path)
    rows = chunk_rows(array)
    start = number // rows * rows
    pixels = np.empty((min(rows, array.shape[0] - start), *array.shape[1:]), np.uint8)
    read_rows(array, start, pixels, str(path))
    return start, pixels
