"""insightface's .bin files of pairs of faces: lfw.bin, cfp_fp.bin, agedb_30.bin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossgram.errors import InputError
from crossgram.images.entry import ImageEntry, read_bytes
from crossgram.images.plain_pickle import piece_of, plain_pickle, value_of

__all__ = ["BinFile", "image_id", "paired_faces"]


@dataclass(frozen=True)
class BinFile:
    """Images in the order of the file, in pairs; ids are their positions, 00000 and so on.

    Attributes
    ----------
    root : Path
        The file, a pickle of a list of encoded images, and of which pairs show one person.
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """True: a file holds many images."""
        return True

    def files(self) -> Iterator[Path]:
        """Name the file."""
        return iter([self.root])

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        places, _ = paired_faces(self.root)
        return (ImageEntry(image_id(k), place=place) for k, place in enumerate(places))

    def read(self, entry: ImageEntry) -> bytes:
        """Return the contents of an image."""
        return value_of(read_bytes(self.root, *entry.place))


def image_id(position: int) -> str:
    """Return the id of an image by its position in the file."""
    return f"{position:05d}"


def paired_faces(path: Path) -> tuple[list[tuple[int, int]], list[bool]]:
    """Return where the images of a .bin file lie, and which pairs of them show one person.

    Images 2k and 2k + 1 are pair k (insightface, verification.py, load_bin).

    Raises
    ------
    InputError
        If it cannot be read, or is anything but a list of images with half as many true or false.
    """
    try:
        found = plain_pickle(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    match found:
        case (list() as images, list() as same) if images and len(images) == 2 * len(same):
            pieces = [piece_of(image) for image in images]
        case _:
            raise InputError(
                f"{path}: is no list of pairs as insightface writes it; expected a list of images, "
                "and a list of half as many true or false"
            )
    places = [piece.place for piece in pieces if piece is not None]
    if len(places) < len(pieces):
        raise InputError(
            f"{path}: image {pieces.index(None):,} is no byte string; expected encoded images, "
            "such as JPEG"
        )
    if not all(isinstance(one, bool) for one in same):
        raise InputError(f"{path}: tells of pairs something else than true or false")
    return places, same
