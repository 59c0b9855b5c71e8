"""The list of images with five landmarks and a score that insightface has of IJB-B and IJB-C."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.entry import LANDMARKS, ImageEntry, is_there, read_bytes

__all__ = ["LandmarkList", "is_landmark_list", "landmark_rows"]

_IMAGES = Path("..", "loose_crop")
_WORDS = 1 + LANDMARKS + 1
_MOST_LINE = 1 << 12


@dataclass(frozen=True)
class LandmarkList:
    """Images in the order of a list; their names in it are their ids.

    They lie beside the list or, as insightface lays them out, in ../loose_crop.

    Attributes
    ----------
    root : Path
        The list, such as meta/ijbc_name_5pts_score.txt.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """False: each image has a file of its own."""
        return False

    def files(self) -> Iterator[Path]:
        """Name the images' files."""
        return (self.root.parent / entry.file for entry in self.entries())

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        folder = Path()
        for number, (name, landmarks, _) in enumerate(landmark_rows(self.root)):
            if not number:
                folder = self._folder(name)
            yield ImageEntry(name, file=str(folder / name), landmarks=landmarks)

    def read(self, entry: ImageEntry) -> bytes:
        """Return a file's contents."""
        return read_bytes(self.root.parent / entry.file)

    def _folder(self, name: str) -> Path:
        for folder in (Path(), _IMAGES):
            if is_there(self.root.parent / folder / name):
                return folder
        raise InputError(
            f"{self.root}: its first image {name} is neither beside it nor in "
            f"{self.root.parent / _IMAGES}; put the images there"
        )


def is_landmark_list(path: Path) -> bool:
    """Tell whether a text is such a list, by its first line."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return len(file.readline(_MOST_LINE).split()) == _WORDS
    except OSError:
        return False


def landmark_rows(path: Path) -> Iterator[tuple[str, tuple[float, ...], float]]:
    """Read name, landmarks and detector's score of each image.

    A line is `name x1 y1 ... x5 y5 score`: left eye, right eye, nose, left and right corner of the
    mouth.

    Raises
    ------
    InputError
        At the first line that is none.
    """
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            while line := file.readline(_MOST_LINE):
                number += 1
                if line.strip():
                    yield _row(line)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: line {number} cannot be read ({error}); expected a name, ten coordinates and "
            "a score"
        ) from error
    if not number:
        raise InputError(f"{path}: names no images")


def _row(line: str) -> tuple[str, tuple[float, ...], float]:
    name, *numbers = line.split()
    values = tuple(map(float, numbers))
    if len(values) != _WORDS - 1 or "\0" in name:
        raise ValueError(f"{len(values)} numbers")
    return name, values[:-1], values[-1]
