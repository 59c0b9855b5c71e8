"""A folder tree of image files, whose first folders are the labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.decoding import SUFFIXES
from crossgram.images.entry import ImageEntry, read_bytes

__all__ = ["ImageFolder", "as_text", "is_image_name"]


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder tree, sorted by id, which is the path in it with forward slashes.

    An image's label is the first folder of that path. Links to folders are followed. Files and
    folders whose names begin with a dot, and files with other endings than `SUFFIXES`, are left
    out.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """False: each image has a file of its own."""
        return False

    def files(self) -> Iterator[Path]:
        """Name the images' files."""
        return (self.root / entry.id for entry in self.entries())

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        labelled: bool | None = None
        for name in _walk(self.root, "", ()):
            folder, separator, _ = name.partition("/")
            if labelled not in (None, bool(separator)):
                raise InputError(
                    f"{self.root}: {name} lies in {'a' if separator else 'no'} folder that names "
                    "its label, others do not alike; put all into folders, or none"
                )
            labelled = bool(separator)
            yield ImageEntry(name, folder if separator else None)
        if labelled is None:
            raise InputError(
                f"{self.root}: no images in it or its folders; expected files that end in "
                f"{', '.join(sorted(SUFFIXES))}"
            )

    def read(self, entry: ImageEntry) -> bytes:
        """Return a file's contents."""
        return read_bytes(self.root / entry.id)


def is_image_name(name: str) -> bool:
    """Tell whether a file is an image by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def as_text(path: str, where: Path) -> str:
    """Return a path as it is, unless it cannot be an id."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path!r} in {where}: its name is not UTF-8, and ids are text; rename it"
        ) from error
    return path


def _walk(root: Path, inside: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Return the paths of images below a folder, in the order of their text."""
    folder = root / inside
    try:
        status = folder.stat()
        found = [(entry.name, entry.is_dir()) for entry in os.scandir(folder)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in parents:
        raise InputError(f"{folder}: is a link to a folder around it; take it away")
    # with its slash, a folder sorts among the files as the paths of what is in it do
    for name in sorted(f"{name}/" if is_folder else name for name, is_folder in found):
        path = inside + name
        if name.endswith("/"):
            if not name.startswith("."):
                yield from _walk(root, path, (*parents, here))
        elif is_image_name(name):
            yield as_text(path, folder)
