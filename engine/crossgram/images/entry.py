"""One image of a collection, and what every kind of collection offers."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossgram.images.decoding import UnusableImageError

__all__ = ["BOX", "LANDMARKS", "Collection", "ImageEntry", "is_there", "read_bytes"]

BOX, LANDMARKS = 4, 10
"""Numbers of a box and of five landmarks."""


@dataclass(frozen=True)
class ImageEntry:
    """Where an image of a collection is, and what is known of it.

    Attributes
    ----------
    id : str
        Names it, the same wherever the collection lies.
    label : str or None
        Whom or what it shows.
    file : str
        What the collection reads it from, where that is not the id.
    place : (int, int)
        Offset and length in that file, where it is a part of it.
    box : tuple of 4 float, or None
        Left, top, right, bottom.
    landmarks : tuple of 10 float, or None
        x and y of left eye, right eye, nose, left and right corner of the mouth.
    """

    id: str
    label: str | None = None
    file: str = ""
    place: tuple[int, int] = (0, 0)
    box: tuple[float, ...] | None = None
    landmarks: tuple[float, ...] | None = None


class Collection(Protocol):
    """Images in a fixed order, in one of the forms in which they are kept."""

    @property
    def root(self) -> Path:
        """What the user named."""
        ...

    @property
    def shares_files(self) -> bool:
        """Whether a file holds many images."""
        ...

    def files(self) -> Iterator[Path]:
        """Name the files that images are read from."""
        ...

    def entries(self) -> Iterator[ImageEntry]:
        """List the images, in bounded memory; raises `InputError` if that cannot be done."""
        ...

    def read(self, entry: ImageEntry) -> bytes | NDArray[np.uint8]:
        """Return a file's contents, or pixels; raises `UnusableImageError`."""
        ...


def is_there(path: Path) -> bool:
    """Tell whether there is such a file, whatever a list has for its name."""
    try:
        return path.is_file()
    except OSError:
        # too long a name
        return False


def read_bytes(path: Path, start: int = 0, length: int | None = None) -> bytes:
    """Read a file, or a part of it.

    Raises
    ------
    UnusableImageError
        If it is missing, cannot be read, or is too large for an image.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImageError("is not a file")
        with path.open("rb", buffering=0) as file:
            size = status.st_size - start if length is None else length
            if size > _MOST_BYTES:
                raise UnusableImageError(
                    f"is {size:,} bytes long, at most {_MOST_BYTES:,} are read"
                )
            file.seek(start)
            data = file.read(size)
    except OSError as error:
        if error.errno not in _OF_THE_IMAGE:
            # of the disk or the machine: another time it can be read
            raise
        raise UnusableImageError(f"cannot be read: {error.strerror or error}") from error
    if len(data) < size:
        raise UnusableImageError(f"is cut: {len(data):,} of {size:,} bytes are there")
    return data


_MOST_BYTES = 1 << 28

_OF_THE_IMAGE = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
